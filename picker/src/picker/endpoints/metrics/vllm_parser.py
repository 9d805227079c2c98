"""Parses the load of a vLLM server from its `/metrics` page, without reading the rest of the page.

A page has some 480 lines, and ten of them matter. They are found by their names. In the text format
(https://prometheus.io/docs/instrumenting/exposition_formats/) all series of a metric are one uninterrupted group. Its
comments precede it, so a metric ends at the next comment. The relevant lines are the same in OpenMetrics, which is
parsed too.

Metrics have changed their names over vLLM's releases. Of several names on a page, the newest is used.
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
"""Common prefix of the histogram's series. All series of one engine precede those of the next engine."""
FIRST_TOKENS, FIRST_TOKEN_S = FIRST_TOKEN + b"count", FIRST_TOKEN + b"sum"
PROMPT_TOKENS = b"vllm:prompt_tokens_total"
GENERATION_TOKENS = b"vllm:generation_tokens_total"
STEPS = b"vllm:iteration_tokens_total_count"
"""Engine steps: the number of observations of the histogram of their tokens."""
PREFIX_QUERIES = (b"vllm:prefix_cache_queries_total", b"vllm:gpu_prefix_cache_queries_total")
PREFIX_HITS = (b"vllm:prefix_cache_hits_total", b"vllm:gpu_prefix_cache_hits_total")
"""Newest first: `gpu_` in the first releases of the V1 engine. V0 had a rate only."""
LORA_INFO = b"vllm:lora_requests_info"
CACHE_CONFIG = b"vllm:cache_config_info"

NEAR_BYTES = 512
"""Distance from a metric's previous position within which it is searched first: the numbers before it change their
length by a few digits at a time."""

LORA_SEARCH_INTERVAL = 8
"""Pages per search for adapters, for a server whose page does not have their metric. The server would have to restart
to have adapters, and an unsuccessful search is a quarter of the time of reading a page."""

MAX_KNOWN_BYTES = 64 << 10
"""Limit on the text kept of one metric. The longest of a usual page has 2 KiB."""

KEY_BYTES = 64
"""Bytes of a kept text that are searched near its previous position. The rest is compared once. A search costs at most
this times the searched bytes: 70,000 comparisons."""

MAX_LINE_BYTES = 16 << 10
"""A series with a longer line is skipped. The longest line of a recorded page has 2 KiB (`cache_config_info`)."""

MAX_SERIES = 4096
"""Limit on the examined occurrences of metric names on one page. Later ones are skipped. 1 MiB has room for 48,000, at
a microsecond each. A usual page needs 12, a server with a thousand label sets of adapters 1,012."""

MAX_LABEL_BYTES = 32 << 10
"""Limit on the label sets parsed of one page: 20 engines with the longest recorded set. Later sets are skipped."""

MAX_INDENT_BYTES = 16
"""Limit on blanks before a name. The format allows them, and no known exporter writes them."""

MAX_NUMBER_BYTES = 64
"""A longer value is not a number. The longest `repr` of a Python float has 24."""

MAX_LORAS = 1000
MAX_LORA_CHARACTERS = 256
"""Limits on the adapters of one page and on the length of a name. Others are skipped. vLLM's own `--max-cpu-loras` is
far below a thousand, and a model name of a request has at most 256 characters."""

_SERIES = re.compile(
    # [ {LABELS} ] VALUE, after the name. Possessive throughout, and only matched after a name at the start of a line.
    rb"""[ \t]*+(?:\{([^"}\n]*+(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"[^"}\n]*+)*+)\})?[ \t]*+([^ \t\r\n{]++)"""
)
_LABEL = re.compile(
    rb"""[ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+,?[ \t]*+"""
)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_NEWLINE = ord("\n")
_COMMENT = ord("#")
_LARGEST_COUNT = float(1 << 53)
"""No server has more requests or blocks. A larger float does not count exactly."""


class NoServerMetrics(ValueError):
    """The page has neither the queue, nor the running requests, nor the KV cache usage: it is not a vLLM server's."""


_Series = tuple[bytes, float]
"""A line of a metric: the text between its braces, and its value, which is a finite number."""


class _KnownMetric(msgspec.Struct, gc=False):
    """The position of a metric on the previous page, and the parts of its text that do not change."""

    at: int
    texts: Sequence[bytes]
    """The text before each of its values, and after the last. The first text occurs once on a page: it is a series with
    its labels, or the comment before a metric and its first series."""
    labels: Sequence[bytes]
    """Those of its series."""


class MetricsReader:
    """Reads the pages of one server.

    Little but numbers changes from one page to the next. A metric is searched near its previous position, and its
    values are read there if the text around them is the same. Otherwise the whole page is searched.

    The cost is linear in the page, whatever its content. The text kept of a metric is at most twice MAX_KNOWN_BYTES.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, _KnownMetric] = {}
        self._pages_until_lora_search = 0
        self._series_left = 0
        """Of MAX_SERIES, on the current page."""
        self._parsed: dict[bytes, Mapping[str, str]] = {}
        """Labels of the previous page by their text, so that unchanged labels are parsed once."""

    def read(self, page: bytes, scraped_at_s: float = 0.0, in_flight_at_scrape: int = 0) -> ServerMetrics:
        """Parse a page. The last two arguments are copied into the result.

        A server with several engines (data parallelism) is read as one of their total size. Queues, running requests
        and blocks are summed. KV cache usage is the mean, because the engines are alike and the server balances them.
        A value that is not a finite number counts as absent. Of the three loads, an absent one counts as 0.

        Raises NoServerMetrics if all three are absent. Raises nothing else, whatever the bytes.
        """
        self._series_left = MAX_SERIES
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
            kv_cache_usage=math.fsum([min(1.0, max(0.0, value)) for value in usage]) / len(usage) if usage else 0.0,
            active_loras=active_loras,
            waiting_loras=waiting_loras,
            max_loras=max_loras,
            block_size_tokens=block_size,
            kv_blocks=blocks,
            progress=self._progress(page),
            generation_tokens=_total(self._values(page, GENERATION_TOKENS)),
            steps=_total(self._values(page, STEPS)),
            scraped_at_s=scraped_at_s,
            in_flight_at_scrape=in_flight_at_scrape,
        )

    def _lora_series(self, page: bytes) -> Sequence[_Series]:
        if self._pages_until_lora_search:
            self._pages_until_lora_search -= 1
            return ()
        series = self._series(page, LORA_INFO)
        if not series and page.find(LORA_INFO) < 0:
            self._pages_until_lora_search = LORA_SEARCH_INTERVAL - 1
        return series

    def _labels_of(self, texts: Sequence[bytes]) -> list[Mapping[str, str]]:
        """The labels in each of `texts`. Empty for texts beyond MAX_LABEL_BYTES in total."""
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
        """The counters that move at first tokens. None if one of them is missing."""
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
        """The number of first tokens, and the sum of their times."""
        values = self._read_known(page, FIRST_TOKEN)
        if values is not None and not self._follows_engines(page):
            return _total(values[:1]), _total(values[1:])
        begin = self._first(page, FIRST_TOKENS)
        first_tokens, first_token_s = (self._group(page, name, begin) for name in (FIRST_TOKENS, FIRST_TOKEN_S))
        if len(first_tokens) == len(first_token_s) == 1:
            self._keep(page, FIRST_TOKEN, begin, (*first_tokens, *first_token_s))
        return _total(_finite(first_tokens)), _total(_finite(first_token_s))

    def _follows_engines(self, page: bytes) -> bool:
        """Whether another engine's first tokens precede the known ones."""
        at = self._known[FIRST_TOKEN].at
        return page.find(FIRST_TOKENS, max(0, page.rfind(b"\n#", 0, at)), at) >= 0

    def _values(self, page: bytes, name: bytes) -> Sequence[float]:
        """The finite values of a metric's series."""
        values = self._read_known(page, name)
        return values if values is not None else _finite(self._search(page, name))

    def _series(self, page: bytes, name: bytes) -> Sequence[_Series]:
        values = self._read_known(page, name)
        if values is not None:
            return list(zip(self._known[name].labels, values, strict=True))
        group = self._search(page, name)
        return [(series[1] or b"", value) for series in group if (value := _number(series[2])) is not None]

    def _search(self, page: bytes, name: bytes) -> Sequence[re.Match[bytes]]:
        """The series of a metric, at any position of the page."""
        begin = self._first(page, name)
        group = self._group(page, name, begin)
        comment = page.rfind(b"\n", 0, max(0, begin - 1)) + 1
        if group and page[comment] == _COMMENT:
            self._keep(page, name, comment, group)
        return group

    def _keep(self, page: bytes, name: bytes, at: int, group: Sequence[re.Match[bytes]]) -> None:
        """Keep the text from `at` on, unless the last value is followed by something else than a comment."""
        if group[-1].end(2) - at > MAX_KNOWN_BYTES:
            return
        ends = [series.end(2) for series in group]
        starts = [series.start(2) for series in group]
        texts = [page[end:start] for end, start in zip((at, *ends), (*starts, ends[-1] + 2), strict=True)]
        if texts[-1] == b"\n#":
            self._known[name] = _KnownMetric(at, texts, [series[1] or b"" for series in group])

    def _read_known(self, page: bytes, name: bytes) -> Sequence[float] | None:
        """The values of a known metric. None if the text around them has changed."""
        known = self._known.get(name)
        if known is None:
            return None
        text, *others = known.texts
        key = text[:KEY_BYTES]
        at = page.find(key, max(0, known.at - NEAR_BYTES), known.at + len(key) + NEAR_BYTES)
        if at < 0 or not page.startswith(text, at):
            return None
        known.at = at
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
        """The position of the first series of that name. -1 if there is none."""
        at = page.find(name)
        while at >= 0:
            self._series_left -= 1
            if self._series_left < 0:
                return -1
            if _is_series(page, at, name):
                return at
            at = page.find(name, at + len(name))
        return -1

    def _group(self, page: bytes, name: bytes, begin: int) -> Sequence[re.Match[bytes]]:
        """The series of that name from `begin` to the next comment. A match starts after the name: labels and value."""
        if begin < 0:
            return ()
        end = page.find(b"\n#", begin)
        end = len(page) if end < 0 else end
        found: list[re.Match[bytes]] = []
        at = begin
        while at >= 0:
            self._series_left -= 1
            if self._series_left < 0:
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
    """Whether the name at `at` is a complete name at the start of a line, but for a few blanks.

    `vllm:num_requests_waiting_by_reason` is another name. A name in a comment or in a label's value is no series.
    """
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
    """The sum of a counter over all engines. None without values."""
    return math.fsum(map(_bounded, values)) if values else None


def _number(text: bytes) -> float | None:
    """A finite number. None for NaN, infinities and other text."""
    if len(text) > MAX_NUMBER_BYTES:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    # Python parses 1_000 as a number. The text format does not allow it.
    return value if math.isfinite(value) and b"_" not in text else None


def _bounded(value: float) -> float:
    return min(_LARGEST_COUNT, max(0.0, value))


def _count(values: Sequence[float]) -> int:
    """The sum of the values, rounded, at least 0."""
    return round(_bounded(math.fsum(map(_bounded, values))))


def _newest(group: Sequence[_Series]) -> Sequence[bytes]:
    """The labels with the greatest value, which is the time of the last change. Old ones stay on the page."""
    newest = max(group, key=itemgetter(1), default=(b"", 0.0))[0]
    return (newest,) if newest else ()


_Loras = tuple[frozenset[str], frozenset[str], int]
"""Running and waiting adapters, and how many may run at once."""

_NO_LORAS: _Loras = frozenset(), frozenset(), 0


def _loras(labels: Mapping[str, str]) -> _Loras:
    running, waiting = (_names(labels.get(f"{state}_lora_adapters", "")) for state in ("running", "waiting"))
    return running, waiting, min(_MAX_CONCURRENT_LORAS, _whole(labels.get("max_lora", "")) or 0)


_MAX_CONCURRENT_LORAS = 10_000
"""Limit on the adapters that a server runs at once, so that a cost multiplied with it stays finite."""


def _names(joined: str) -> frozenset[str]:
    names = {name for part in joined.split(",") if (name := part.strip()) and len(name) <= MAX_LORA_CHARACTERS}
    return frozenset(names if len(names) <= MAX_LORAS else sorted(names)[:MAX_LORAS])


def _cache_size(label_sets: Sequence[Mapping[str, str]]) -> tuple[int | None, int | None]:
    """Block size in tokens and number of blocks. None for a value that the server does not report."""
    block_size: int | None = None
    blocks: int | None = None
    for labels in label_sets:
        block_size = _whole(labels.get("block_size", "")) or block_size
        more = _whole(labels.get("num_gpu_blocks", ""))
        if more:
            blocks = (blocks or 0) + more
    return block_size, blocks


def _whole(text: str) -> int | None:
    """A positive whole number. None for other text, such as `None`, which vLLM writes for an unknown value."""
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _labels(text: bytes) -> Mapping[str, str]:
    """Label names and values without escapes, up to the first label that is not well formed. Bytes that are not UTF-8
    are replaced."""
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
