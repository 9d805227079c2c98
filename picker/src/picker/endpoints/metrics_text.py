"""What a vLLM server's `/metrics` page says about its load, without reading the rest of the page.

A page has some 480 lines, of which ten matter; they are found by their names. The text format
(https://prometheus.io/docs/instrumenting/exposition_formats/) makes all series of a metric one uninterrupted group, so
the reading of a metric ends with its group. The lines needed are written alike in OpenMetrics, which is read too.

Metrics have changed their names over vLLM's releases; the newest name that a page has is the one believed.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from picker.endpoints.endpoint import ServerMetrics
from picker.endpoints.prefills import Progress

WAITING = b"vllm:num_requests_waiting"
RUNNING = b"vllm:num_requests_running"
KV_CACHE_USAGE = (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
"""Newest first: `kv_` since 0.9.2, `gpu_` until 0.10.2 (both in between)."""
FIRST_TOKENS = b"vllm:time_to_first_token_seconds_count"
FIRST_TOKEN_S = b"vllm:time_to_first_token_seconds_sum"
PROMPT_TOKENS = b"vllm:prompt_tokens_total"
PREFIX_QUERIES = (b"vllm:prefix_cache_queries_total", b"vllm:gpu_prefix_cache_queries_total")
PREFIX_HITS = (b"vllm:prefix_cache_hits_total", b"vllm:gpu_prefix_cache_hits_total")
"""Newest first: `gpu_` in the first releases of the V1 engine; V0 had a rate only."""
LORA_INFO = b"vllm:lora_requests_info"
CACHE_CONFIG = b"vllm:cache_config_info"
_CACHE_CONFIG_TYPE = b"# TYPE vllm:cache_config_info"

_SERIES = re.compile(
    # [ {LABELS} ] VALUE, after the name. Possessive throughout: linear in the line, whatever it holds.
    rb"""[ \t]*+(?:\{([^"}\n]*+(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"[^"}\n]*+)*+)\})?[ \t]*+([^ \t\r\n{]++)"""
)
_LABEL = re.compile(rb"""([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+,?[ \t]*+""")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_NEWLINE = ord("\n")
_LARGEST_COUNT = float(1 << 53)
"""No server has more requests or blocks; a float beyond it is no count."""


class NoServerMetrics(ValueError):
    """The page holds neither queue, nor running requests, nor KV cache usage: it is no vLLM server's."""


def read_metrics(page: bytes, scraped_at_s: float = 0.0, in_flight_then: int = 0) -> ServerMetrics:
    """Read a page; the last two arguments go into the result as they are.

    A server with several engines (data parallelism) is read as one of their total size: queues, running requests and
    blocks are summed, and KV cache usage is the mean, for its engines are alike and the server itself balances between
    them. A value that is no finite number is as good as absent, and of the three loads an absent one counts as 0.

    Raises NoServerMetrics when all three are absent. Raises nothing else, whatever the bytes.
    """
    waiting = _values(page, WAITING)
    running = _values(page, RUNNING)
    usage = _values(page, KV_CACHE_USAGE[0]) or _values(page, KV_CACHE_USAGE[1])
    if not (waiting or running or usage):
        raise NoServerMetrics("no vllm:num_requests_waiting, vllm:num_requests_running or vllm:kv_cache_usage_perc")
    active_loras, waiting_loras, max_loras = _newest_loras(page)
    block_size, blocks = _cache_size(page)
    return ServerMetrics(
        queue_depth=_count(waiting),
        running=_count(running),
        kv_cache_usage=min(1.0, max(0.0, math.fsum(usage) / len(usage))) if usage else 0.0,
        active_loras=active_loras,
        waiting_loras=waiting_loras,
        max_loras=max_loras,
        block_size_tokens=block_size,
        kv_blocks=blocks,
        progress=_progress(page),
        scraped_at_s=scraped_at_s,
        in_flight_then=in_flight_then,
    )


def _progress(page: bytes) -> Progress | None:
    """The counters that move at first tokens; None where one of those is missing."""
    first_tokens, first_token_s = _total(page, FIRST_TOKENS), _total(page, FIRST_TOKEN_S)
    prompt_tokens = _total(page, PROMPT_TOKENS)
    if first_tokens is None or first_token_s is None or prompt_tokens is None:
        return None
    for queries, hits in zip(PREFIX_QUERIES, PREFIX_HITS, strict=True):
        looked_up = _total(page, queries)
        if looked_up is not None:
            return Progress(first_tokens, first_token_s, prompt_tokens, looked_up, _total(page, hits) or 0.0)
    return Progress(first_tokens, first_token_s, prompt_tokens)


def _total(page: bytes, name: bytes) -> float | None:
    """A counter over all engines; None where the server has none of that name."""
    values = _values(page, name)
    return min(_LARGEST_COUNT, max(0.0, math.fsum(values))) if values else None


def _group(page: bytes, name: bytes, start: int = 0) -> Iterator[bytes]:
    """What follows the name on each line of a metric: labels and value. `start` is where to begin to look."""
    at = page.find(name, start)
    while at >= 0:
        begin = at + len(name)
        # Anything else after the name is a longer name, such as `vllm:num_requests_waiting_by_reason`.
        if page[begin : begin + 1] not in (b"{", b" ", b"\t") or not _begins_line(page, at):
            at = page.find(name, begin)
            continue
        end = page.find(b"\n", begin)
        if end < 0:
            yield page[begin:]
            return
        yield page[begin:end]
        at = end + 1
        if not page.startswith(name, at):
            if page[at : at + 1] not in (b" ", b"\t"):
                return
            at = page.find(name, at)


def _begins_line(page: bytes, at: int) -> bool:
    """Whether nothing but blanks precedes on the line: not in a comment and not inside a label's value."""
    return at == 0 or page[at - 1] == _NEWLINE or not page[page.rfind(b"\n", 0, at) + 1 : at].strip(b" \t")


def _values(page: bytes, name: bytes) -> Sequence[float]:
    """The finite values of a metric's series."""
    return [
        value
        for line in _group(page, name)
        if (series := _SERIES.match(line)) and (value := _number(series[2])) is not None
    ]


def _number(text: bytes) -> float | None:
    """A finite number; None for NaN, infinities and what is no number."""
    try:
        value = float(text)
    except ValueError:
        return None
    # Python reads 1_000 as a number, the text format does not.
    return value if math.isfinite(value) and b"_" not in text else None


def _count(values: Sequence[float]) -> int:
    """Values summed to a whole number of things, at least 0."""
    return round(min(_LARGEST_COUNT, max(0.0, sum(values))))


def _newest_loras(page: bytes) -> tuple[frozenset[str], frozenset[str], int]:
    """Running and waiting adapters and how many fit, by the series with the greatest value: old ones stay on the page,
    and the value is the time of the last change."""
    newest: bytes | None = None
    newest_at = -math.inf
    for line in _group(page, LORA_INFO):
        series = _SERIES.match(line)
        value = _number(series[2]) if series else None
        if series and value is not None and value >= newest_at:
            newest, newest_at = series[1], value
    return _loras(newest) if newest else (frozenset(), frozenset(), 0)


@lru_cache(maxsize=1024)
def _loras(labels: bytes) -> tuple[frozenset[str], frozenset[str], int]:
    values = _labels(labels)
    return (
        _names(values.get("running_lora_adapters", "")),
        _names(values.get("waiting_lora_adapters", "")),
        _whole(values.get("max_lora", "")) or 0,
    )


def _names(joined: str) -> frozenset[str]:
    return frozenset(name for part in joined.split(",") if (name := part.strip()))


def _cache_size(page: bytes) -> tuple[int | None, int | None]:
    """Block size in tokens and number of blocks; None for what the server does not tell.

    The metric stands near the page's end, and looking for its `# TYPE` line from there saves reading the page twice.
    """
    block_size: int | None = None
    blocks: int | None = None
    for line in _group(page, CACHE_CONFIG, start=max(0, page.rfind(_CACHE_CONFIG_TYPE))):
        size, more = _cache_config(line)
        block_size = size or block_size
        if more:
            blocks = (blocks or 0) + more
    return block_size, blocks


@lru_cache(maxsize=1024)
def _cache_config(line: bytes) -> tuple[int | None, int | None]:
    """Forty labels that never change while a server lives: parsed once."""
    series = _SERIES.match(line)
    values = _labels(series[1] or b"") if series else {}
    return _whole(values.get("block_size", "")), _whole(values.get("num_gpu_blocks", ""))


def _whole(text: str) -> int | None:
    """A positive whole number; None for anything else, `None` among them, which is what vLLM writes for not known."""
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= 15 else None


def _labels(text: bytes) -> dict[str, str]:
    """Label names and values, escapes resolved. Bytes that are not UTF-8 are replaced."""
    return {match[1].decode(): _unescape(match[2]).decode(errors="replace") for match in _LABEL.finditer(text)}


def _unescape(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    return _ESCAPE.sub(lambda match: b"\n" if match[1] == b"n" else match[1], value)
