"""What a vLLM server's `/metrics` page says about its load, without reading the rest of the page.

A page has some 480 lines, of which ten matter; they are found by their names. The text format
(https://prometheus.io/docs/instrumenting/exposition_formats/) makes all series of a metric one uninterrupted group with
its comments before it, so the reading of a metric ends with the next comment. The lines needed are written alike in
OpenMetrics, which is read too.

Metrics have changed their names over vLLM's releases; the newest name that a page has is the one believed.
"""

import math
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter

import msgspec

from picker.endpoints.endpoint import ServerMetrics
from picker.endpoints.load.prefill_tracker import PrefillCounters

WAITING = b"vllm:num_requests_waiting"
RUNNING = b"vllm:num_requests_running"
KV_CACHE_USAGE = (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
"""Newest first: `kv_` since 0.9.2, `gpu_` until 0.10.2 (both in between)."""
FIRST_TOKEN = b"vllm:time_to_first_token_seconds_"
"""What the series of a histogram begin with. All of one engine's stand before the next engine's."""
FIRST_TOKENS, FIRST_TOKEN_S = FIRST_TOKEN + b"count", FIRST_TOKEN + b"sum"
PROMPT_TOKENS = b"vllm:prompt_tokens_total"
GENERATION_TOKENS = b"vllm:generation_tokens_total"
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

MAX_REMEMBERED_BYTES = 64 << 10
"""Of one metric on the page before. The longest of a usual page has 2 KiB."""

KEY_BYTES = 64
"""Of a remembered text these first bytes are searched for near its old place; the rest is compared once. A search costs
at most this times the searched bytes: 70,000 comparisons."""

MAX_LINE_BYTES = 16 << 10
"""A series with a longer line is skipped. The longest line of a recorded page has 2 KiB (`cache_config_info`)."""

MAX_SERIES = 4096
"""Occurrences of metric names looked at on one page; later ones are skipped. 1 MiB holds 48,000 of them, at a
microsecond each. A usual page needs 12, a server with a thousand label sets of adapters 1,012."""

MAX_LABEL_BYTES = 32 << 10
"""Of all label sets that are parsed on one page: 20 engines with the longest recorded set. Later sets are skipped."""

MAX_INDENT_BYTES = 16
"""Blanks before a name; the format allows them and no known exporter writes them."""

MAX_NUMBER_BYTES = 64
"""A longer value is no number. The longest that Python's `repr` of a float makes has 24."""

MAX_LORAS = 1000
MAX_LORA_CHARACTERS = 256
"""Adapters that one page may name, and the length of a name: vLLM's own `--max-cpu-loras` is far below a thousand, and
a model name that requests may use has at most 256 characters. Others are skipped."""

_SERIES = re.compile(
    # [ {LABELS} ] VALUE, after the name. Possessive throughout, and only matched at a name on a line of its own.
    rb"""[ \t]*+(?:\{([^"}\n]*+(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"[^"}\n]*+)*+)\})?[ \t]*+([^ \t\r\n{]++)"""
)
_LABEL = re.compile(
    rb"""[ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+,?[ \t]*+"""
)
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
    it stood, and taken from there if all about it is as it was. Otherwise the whole page is looked through.

    The cost is linear in the page, whatever it holds. What is remembered of a metric is at most twice
    MAX_REMEMBERED_BYTES."""

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}
        self._pages_without_loras = 0
        """That come before they are looked for again."""
        self._looks_left = 0
        """Of MAX_SERIES, on the page that is read now."""
        self._parsed: dict[bytes, Mapping[str, str]] = {}
        """Labels of the page before by their text, so that those that do not change are parsed once."""

    def read(self, page: bytes, scraped_at_s: float = 0.0, in_flight_at_scrape: int = 0) -> ServerMetrics:
        """Read a page; the last two arguments go into the result as they are.

        A server with several engines (data parallelism) is read as one of their total size: queues, running requests
        and blocks are summed, and KV cache usage is the mean, for its engines are alike and the server itself balances
        between them. A value that is no finite number is as good as absent, and of the three loads an absent one counts
        as 0.

        Raises NoServerMetrics when all three are absent. Raises nothing else, whatever the bytes.
        """
        self._looks_left = MAX_SERIES
        waiting = self._values(page, WAITING)
        running = self._values(page, RUNNING)
        usage = self._values(page, KV_CACHE_USAGE[0]) or self._values(page, KV_CACHE_USAGE[1])
        if not (waiting or running or usage):
            raise NoServerMetrics("no vllm:num_requests_waiting, vllm:num_requests_running or vllm:kv_cache_usage_perc")
        newest_loras = _newest(self._lora_series(page))
        labels = self._labels_of([*newest_loras, *(text for text, _ in self._series(page, CACHE_CONFIG))])
        active_loras, waiting_loras, max_loras = _loras(labels.pop(0)) if newest_loras else _NO_LORAS
        block_size, blocks = _cache_size(labels)
        return ServerMetrics(
            queue_depth=_count(waiting),
            running=_count(running),
            kv_cache_usage=math.fsum([min(1.0, max(0.0, each)) for each in usage]) / len(usage) if usage else 0.0,
            active_loras=active_loras,
            waiting_loras=waiting_loras,
            max_loras=max_loras,
            block_size_tokens=block_size,
            kv_blocks=blocks,
            progress=self._progress(page),
            generation_tokens=_total(self._values(page, GENERATION_TOKENS)),
            scraped_at_s=scraped_at_s,
            in_flight_at_scrape=in_flight_at_scrape,
        )

    def _lora_series(self, page: bytes) -> Sequence[_Series]:
        if self._pages_without_loras:
            self._pages_without_loras -= 1
            return ()
        series = self._series(page, LORA_INFO)
        if not series and page.find(LORA_INFO) < 0:
            self._pages_without_loras = LORAS_LOOKED_FOR - 1
        return series

    def _labels_of(self, texts: Sequence[bytes]) -> list[Mapping[str, str]]:
        """The labels in each of `texts`; none for what exceeds MAX_LABEL_BYTES in all."""
        before, self._parsed = self._parsed, {}
        left = MAX_LABEL_BYTES
        found: list[Mapping[str, str]] = []
        for text in texts:
            left -= len(text)
            if left < 0:
                found.append({})
                continue
            labels = before.get(text)
            if labels is None:
                labels = _labels(text)
            self._parsed[text] = labels
            found.append(labels)
        return found

    def _progress(self, page: bytes) -> PrefillCounters | None:
        """The counters that move at first tokens; None where one of those is missing."""
        first_tokens, first_token_s = self._first_tokens(page)
        prompt_tokens = _total(self._values(page, PROMPT_TOKENS))
        if first_tokens is None or first_token_s is None or prompt_tokens is None:
            return None
        for queries, hits in zip(PREFIX_QUERIES, PREFIX_HITS, strict=True):
            looked_up = _total(self._values(page, queries))
            if looked_up is not None:
                found = _total(self._values(page, hits)) or 0.0
                return PrefillCounters(first_tokens, first_token_s, prompt_tokens, looked_up, found)
        return PrefillCounters(first_tokens, first_token_s, prompt_tokens)

    def _first_tokens(self, page: bytes) -> tuple[float | None, float | None]:
        """How many first tokens are out, and the sum of their times."""
        kept = self._as_before(page, FIRST_TOKEN)
        if kept is not None and not self._follows_engines(page):
            return _total(kept[:1]), _total(kept[1:])
        begin = self._first(page, FIRST_TOKENS)
        first_tokens, first_token_s = (self._group(page, name, begin) for name in (FIRST_TOKENS, FIRST_TOKEN_S))
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
        begin = self._first(page, name)
        group = self._group(page, name, begin)
        comment = page.rfind(b"\n", 0, max(0, begin - 1)) + 1
        if group and page[comment] == _COMMENT:
            self._remember(page, name, comment, group)
        return group

    def _remember(self, page: bytes, name: bytes, at: int, group: Sequence[re.Match[bytes]]) -> None:
        """The page from `at` on, unless something else than a comment comes after the last value."""
        if group[-1].end(2) - at > MAX_REMEMBERED_BYTES:
            return
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
        key = text[:KEY_BYTES]
        at = page.find(key, max(0, place.at - NEAR_BYTES), place.at + len(key) + NEAR_BYTES)
        if at < 0 or not page.startswith(text, at):
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

    def _first(self, page: bytes, name: bytes) -> int:
        """Where the first series of that name begins; -1 where there is none."""
        at = page.find(name)
        while at >= 0:
            self._looks_left -= 1
            if self._looks_left < 0:
                return -1
            if _is_series(page, at, name):
                return at
            at = page.find(name, at + len(name))
        return -1

    def _group(self, page: bytes, name: bytes, begin: int) -> Sequence[re.Match[bytes]]:
        """The series of that name from `begin` to the next comment, each as what follows the name: labels and value."""
        if begin < 0:
            return ()
        end = page.find(b"\n#", begin)
        end = len(page) if end < 0 else end
        found: list[re.Match[bytes]] = []
        at = begin
        while at >= 0:
            self._looks_left -= 1
            if self._looks_left < 0:
                break
            after = at + len(name)
            if _is_series(page, at, name):
                line_end = page.find(b"\n", after, end)
                line_end = end if line_end < 0 else line_end
                if line_end - at <= MAX_LINE_BYTES:
                    series = _SERIES.match(page, after, line_end)
                    if series is not None:
                        found.append(series)
                after = line_end
            at = page.find(name, after, end)
        return found


def _is_series(page: bytes, at: int, name: bytes) -> bool:
    """Whether the name that stands at `at` is all of a name (`vllm:num_requests_waiting_by_reason` is another one), and
    nothing but a few blanks precedes on the line: it is not in a comment and not inside a label's value."""
    end = at + len(name)
    if page[end : end + 1] not in (b"{", b" ", b"\t"):
        return False
    if at == 0 or page[at - 1] == _NEWLINE:
        return True
    start = page.rfind(b"\n", max(0, at - MAX_INDENT_BYTES - 1), at) + 1
    return (start > 0 or at <= MAX_INDENT_BYTES) and not page[start:at].strip(b" \t")


def _finite(group: Sequence[re.Match[bytes]]) -> Sequence[float]:
    return [value for series in group if (value := _number(series[2])) is not None]


def _total(values: Sequence[float]) -> float | None:
    """A counter over all engines; None where the server has none."""
    return math.fsum(map(_bounded, values)) if values else None


def _number(text: bytes) -> float | None:
    """A finite number; None for NaN, infinities and what is no number."""
    if len(text) > MAX_NUMBER_BYTES:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    # Python reads 1_000 as a number, the text format does not.
    return value if math.isfinite(value) and b"_" not in text else None


def _bounded(value: float) -> float:
    return min(_LARGEST_COUNT, max(0.0, value))


def _count(values: Sequence[float]) -> int:
    """Values summed to a whole number of things, at least 0."""
    return round(_bounded(math.fsum(map(_bounded, values))))


def _newest(group: Sequence[_Series]) -> Sequence[bytes]:
    """The labels with the greatest value, which is the time of the last change; old ones stay on the page."""
    newest = max(group, key=itemgetter(1), default=(b"", 0.0))[0]
    return (newest,) if newest else ()


_Loras = tuple[frozenset[str], frozenset[str], int]
"""Running and waiting adapters, and how many fit."""

_NO_LORAS: _Loras = frozenset(), frozenset(), 0


def _loras(labels: Mapping[str, str]) -> _Loras:
    running, waiting = (_names(labels.get(f"{each}_lora_adapters", "")) for each in ("running", "waiting"))
    return running, waiting, min(_MOST_AT_ONCE, _whole(labels.get("max_lora", "")) or 0)


_MOST_AT_ONCE = 10_000
"""Adapters that a server runs at once: a float that is multiplied with it stays a sane cost."""


def _names(joined: str) -> frozenset[str]:
    names = {name for part in joined.split(",") if (name := part.strip()) and len(name) <= MAX_LORA_CHARACTERS}
    return frozenset(names if len(names) <= MAX_LORAS else sorted(names)[:MAX_LORAS])


def _cache_size(labels: Sequence[Mapping[str, str]]) -> tuple[int | None, int | None]:
    """Block size in tokens and number of blocks; None for what the server does not tell."""
    block_size: int | None = None
    blocks: int | None = None
    for each in labels:
        block_size = _whole(each.get("block_size", "")) or block_size
        more = _whole(each.get("num_gpu_blocks", ""))
        if more:
            blocks = (blocks or 0) + more
    return block_size, blocks


def _whole(text: str) -> int | None:
    """A positive whole number; None for anything else, `None` among them, which is what vLLM writes for not known."""
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _labels(text: bytes) -> Mapping[str, str]:
    """Label names and values, escapes resolved, up to the first that is not well formed. Bytes that are not UTF-8 are
    replaced."""
    labels: dict[str, str] = {}
    at = 0
    while (label := _LABEL.match(text, at)) is not None:
        labels[label[1].decode()] = _unescape(label[2]).decode(errors="replace")
        at = label.end()
    return labels


def _unescape(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    return _ESCAPE.sub(lambda match: b"\n" if match[1] == b"n" else match[1], value)
