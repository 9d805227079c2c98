"""What a vLLM server's `/metrics` page says about its load, without reading the rest of the page.

A page has some 480 lines, of which ten matter; they are found by their names. The text format
(https://prometheus.io/docs/instrumenting/exposition_formats/) makes all series of a metric one uninterrupted group with
its comments before it, so the reading of a metric ends with the next comment. The lines needed are written alike in
OpenMetrics, which is read too.

Metrics have changed their names over vLLM's releases; the newest name that a page has is the one believed.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter

import msgspec

from picker.endpoints.endpoint import ServerMetrics
from picker.endpoints.prefills import Progress

WAITING = b"vllm:num_requests_waiting"
RUNNING = b"vllm:num_requests_running"
KV_CACHE_USAGE = (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
"""Newest first: `kv_` since 0.9.2, `gpu_` until 0.10.2 (both in between)."""
FIRST_TOKEN = b"vllm:time_to_first_token_seconds_"
"""What the series of a histogram begin with. All of one engine's stand before the next engine's."""
FIRST_TOKENS, FIRST_TOKEN_S = FIRST_TOKEN + b"count", FIRST_TOKEN + b"sum"
PROMPT_TOKENS = b"vllm:prompt_tokens_total"
PREFIX_QUERIES = (b"vllm:prefix_cache_queries_total", b"vllm:gpu_prefix_cache_queries_total")
PREFIX_HITS = (b"vllm:prefix_cache_hits_total", b"vllm:gpu_prefix_cache_hits_total")
"""Newest first: `gpu_` in the first releases of the V1 engine; V0 had a rate only."""
LORA_INFO = b"vllm:lora_requests_info"
CACHE_CONFIG = b"vllm:cache_config_info"

NEAR_BYTES = 512
"""How far from where a metric stood on the page before it is looked for first: numbers before it get longer or shorter
by a few digits at a time."""

LORAS_LOOKED_FOR = 8
"""A server whose page does not know the word is looked at for adapters once in so many pages: it would have to be
started anew to have them, and finding nothing is a quarter of what reading a page takes."""

_SERIES = re.compile(
    # [ {LABELS} ] VALUE, after the name. Possessive throughout: linear in the line, whatever it holds.
    rb"""[ \t]*+(?:\{([^"}\n]*+(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"[^"}\n]*+)*+)\})?[ \t]*+([^ \t\r\n{]++)"""
)
_LABEL = re.compile(rb"""([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+,?[ \t]*+""")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_NEWLINE = ord("\n")
_COMMENT = ord("#")
_LARGEST_COUNT = float(1 << 53)
"""No server has more requests or blocks; a float beyond it is no count."""


class NoServerMetrics(ValueError):
    """The page holds neither queue, nor running requests, nor KV cache usage: it is no vLLM server's."""


_Series = tuple[bytes, float]
"""A line of a metric: what stands between its braces, and its value, which is a finite number."""


class _Place(msgspec.Struct, gc=False):
    """Where a metric stood on a page, and what of it does not change."""

    at: int
    texts: Sequence[bytes]
    """What stands before each of its values, and after the last. The first one stands on no page twice: it is a series
    with its labels, or the comment before a metric and its first series."""
    labels: Sequence[bytes]
    """Of its series."""


class MetricsReader:
    """Reads the pages of one server. From one to the next little but numbers changes: a metric is looked for near where
    it stood, and taken from there if all about it is as it was. Otherwise the whole page is looked through."""

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}
        self._pages_without_loras = 0
        """That come before they are looked for again."""

    def read(self, page: bytes, scraped_at_s: float = 0.0, in_flight_then: int = 0) -> ServerMetrics:
        """Read a page; the last two arguments go into the result as they are.

        A server with several engines (data parallelism) is read as one of their total size: queues, running requests
        and blocks are summed, and KV cache usage is the mean, for its engines are alike and the server itself balances
        between them. A value that is no finite number is as good as absent, and of the three loads an absent one counts
        as 0.

        Raises NoServerMetrics when all three are absent. Raises nothing else, whatever the bytes.
        """
        waiting = self._values(page, WAITING)
        running = self._values(page, RUNNING)
        usage = self._values(page, KV_CACHE_USAGE[0]) or self._values(page, KV_CACHE_USAGE[1])
        if not (waiting or running or usage):
            raise NoServerMetrics("no vllm:num_requests_waiting, vllm:num_requests_running or vllm:kv_cache_usage_perc")
        active_loras, waiting_loras, max_loras = _newest_loras(self._lora_series(page))
        block_size, blocks = _cache_size(self._series(page, CACHE_CONFIG))
        return ServerMetrics(
            queue_depth=_count(waiting),
            running=_count(running),
            kv_cache_usage=min(1.0, max(0.0, math.fsum(usage) / len(usage))) if usage else 0.0,
            active_loras=active_loras,
            waiting_loras=waiting_loras,
            max_loras=max_loras,
            block_size_tokens=block_size,
            kv_blocks=blocks,
            progress=self._progress(page),
            scraped_at_s=scraped_at_s,
            in_flight_then=in_flight_then,
        )

    def _lora_series(self, page: bytes) -> Sequence[_Series]:
        if self._pages_without_loras:
            self._pages_without_loras -= 1
            return ()
        series = self._series(page, LORA_INFO)
        if not series and page.rfind(LORA_INFO) < 0:
            self._pages_without_loras = LORAS_LOOKED_FOR - 1
        return series

    def _progress(self, page: bytes) -> Progress | None:
        """The counters that move at first tokens; None where one of those is missing."""
        first_tokens, first_token_s = self._first_tokens(page)
        prompt_tokens = _total(self._values(page, PROMPT_TOKENS))
        if first_tokens is None or first_token_s is None or prompt_tokens is None:
            return None
        for queries, hits in zip(PREFIX_QUERIES, PREFIX_HITS, strict=True):
            looked_up = _total(self._values(page, queries))
            if looked_up is not None:
                found = _total(self._values(page, hits)) or 0.0
                return Progress(first_tokens, first_token_s, prompt_tokens, looked_up, found)
        return Progress(first_tokens, first_token_s, prompt_tokens)

    def _first_tokens(self, page: bytes) -> tuple[float | None, float | None]:
        """How many first tokens are out, and the sum of their times."""
        kept = self._as_before(page, FIRST_TOKEN)
        if kept is not None and not self._follows_engines(page):
            return _total(kept[:1]), _total(kept[1:])
        begin = _first(page, FIRST_TOKENS)
        first_tokens, first_token_s = (_group(page, name, begin) for name in (FIRST_TOKENS, FIRST_TOKEN_S))
        if len(first_tokens) == len(first_token_s) == 1:
            self._remember(page, FIRST_TOKEN, begin, (*first_tokens, *first_token_s))
        return _total(_finite(first_tokens)), _total(_finite(first_token_s))

    def _follows_engines(self, page: bytes) -> bool:
        """Whether another engine's first tokens stand before those that are remembered."""
        at = self._places[FIRST_TOKEN].at
        return page.find(FIRST_TOKENS, max(0, page.rfind(b"\n#", 0, at)), at) >= 0

    def _values(self, page: bytes, name: bytes) -> Sequence[float]:
        """The finite values of a metric's series."""
        kept = self._as_before(page, name)
        return kept if kept is not None else _finite(self._looked_up(page, name))

    def _series(self, page: bytes, name: bytes) -> Sequence[_Series]:
        kept = self._as_before(page, name)
        if kept is not None:
            return list(zip(self._places[name].labels, kept, strict=True))
        group = self._looked_up(page, name)
        return [(series[1] or b"", value) for series in group if (value := _number(series[2])) is not None]

    def _looked_up(self, page: bytes, name: bytes) -> Sequence[re.Match[bytes]]:
        """The series of a metric, wherever it stands."""
        begin = _first(page, name)
        group = _group(page, name, begin)
        comment = page.rfind(b"\n", 0, max(0, begin - 1)) + 1
        if group and page[comment] == _COMMENT:
            self._remember(page, name, comment, group)
        return group

    def _remember(self, page: bytes, name: bytes, at: int, group: Sequence[re.Match[bytes]]) -> None:
        """The page from `at` on, unless something else than a comment comes after the last value."""
        ends = [series.end(2) for series in group]
        starts = [series.start(2) for series in group]
        texts = [page[end:start] for end, start in zip((at, *ends), (*starts, ends[-1] + 2), strict=True)]
        if texts[-1] == b"\n#":
            self._places[name] = _Place(at, texts, [series[1] or b"" for series in group])

    def _as_before(self, page: bytes, name: bytes) -> Sequence[float] | None:
        """The values of a metric that is remembered; None where something else stands there now."""
        place = self._places.get(name)
        if place is None:
            return None
        text, *others = place.texts
        at = page.find(text, max(0, place.at - NEAR_BYTES), place.at + len(text) + NEAR_BYTES)
        if at < 0:
            return None
        place.at = at
        values: list[float] = []
        for following in others:
            start = at + len(text)
            at = page.find(b"\n", start)
            value = _number(page[start:at])
            if value is None or not page.startswith(following, at):
                return None
            values.append(value)
            text = following
        return values


def _first(page: bytes, name: bytes) -> int:
    """Where the first series of that name begins; -1 where there is none."""
    at = page.find(name)
    while at >= 0 and not _is_series(page, at, name):
        at = page.find(name, at + len(name))
    return at


def _group(page: bytes, name: bytes, begin: int) -> Sequence[re.Match[bytes]]:
    """The series of that name from `begin` to the next comment, each as what follows the name: labels and value."""
    if begin < 0:
        return ()
    end = page.find(b"\n#", begin)
    end = len(page) if end < 0 else end
    found: list[re.Match[bytes]] = []
    at = page.find(name, begin, end)
    while at >= 0:
        series = _SERIES.match(page, at + len(name))
        if series is not None and _is_series(page, at, name):
            found.append(series)
        at = page.find(name, at + len(name), end)
    return found


def _is_series(page: bytes, at: int, name: bytes) -> bool:
    """Whether the name that stands at `at` is all of a name (`vllm:num_requests_waiting_by_reason` is another one), and
    nothing but blanks precedes on the line: it is not in a comment and not inside a label's value."""
    end = at + len(name)
    if page[end : end + 1] not in (b"{", b" ", b"\t"):
        return False
    return at == 0 or page[at - 1] == _NEWLINE or not page[page.rfind(b"\n", 0, at) + 1 : at].strip(b" \t")


def _finite(group: Sequence[re.Match[bytes]]) -> Sequence[float]:
    return [value for series in group if (value := _number(series[2])) is not None]


def _total(values: Sequence[float]) -> float | None:
    """A counter over all engines; None where the server has none."""
    return min(_LARGEST_COUNT, max(0.0, math.fsum(values))) if values else None


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


def _newest_loras(group: Sequence[_Series]) -> tuple[frozenset[str], frozenset[str], int]:
    """Running and waiting adapters and how many fit, by the series with the greatest value: old ones stay on the page,
    and the value is the time of the last change."""
    newest = max(group, key=itemgetter(1), default=(b"", 0.0))[0]
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


def _cache_size(group: Sequence[_Series]) -> tuple[int | None, int | None]:
    """Block size in tokens and number of blocks; None for what the server does not tell."""
    block_size: int | None = None
    blocks: int | None = None
    for labels, _ in group:
        size, more = _cache_config(labels)
        block_size = size or block_size
        if more:
            blocks = (blocks or 0) + more
    return block_size, blocks


@lru_cache(maxsize=1024)
def _cache_config(labels: bytes) -> tuple[int | None, int | None]:
    """Forty labels that never change while a server lives: parsed once."""
    values = _labels(labels)
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
