"""Parsing of metrics pages of all generations and forms, invalid ones included."""

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picker.endpoints.endpoint import ServerMetrics
from picker.endpoints.load.prefill_tracker import PrefillCounters
from picker.endpoints.metrics.vllm_parser import (
    CACHE_CONFIG,
    FIRST_TOKEN_S,
    FIRST_TOKENS,
    KV_CACHE_USAGE,
    LORA_INFO,
    LORA_SEARCH_INTERVAL,
    MAX_LINE_BYTES,
    MAX_LORAS,
    MAX_SERIES,
    PREFIX_HITS,
    PREFIX_QUERIES,
    PROMPT_TOKENS,
    RUNNING,
    WAITING,
    MetricsReader,
    NoServerMetrics,
)
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.openmetrics.exposition import generate_latest as escaping_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

RECORDINGS = Path(__file__).parents[4] / "vllm-mock" / "recordings" / "0.32.0"


def read_metrics(page: bytes, scraped_at_s: float = 0.0, in_flight_at_scrape: int = 0) -> ServerMetrics:
    """Read by a reader without previous pages."""
    return MetricsReader().read(page, scraped_at_s, in_flight_at_scrape)


def test_the_recorded_loaded_server_is_read() -> None:
    """A real vLLM 0.32.0 with requests running and waiting."""
    metrics = read_metrics((RECORDINGS / "metrics-loaded.txt").read_bytes(), scraped_at_s=12.5, in_flight_at_scrape=3)
    assert metrics == ServerMetrics(
        queue_depth=4,
        running=8,
        kv_cache_usage=0.09001956947162426,
        block_size_tokens=32,
        kv_blocks=512,
        generation_tokens=371.0,
        steps=56.0,
        progress=PrefillCounters(8.0, 0.14638280868530273, 996.0, 996.0, 0.0),
        scraped_at_s=12.5,
        in_flight_at_scrape=3,
    )


def test_the_recorded_lora_server_shows_the_newest_adapters() -> None:
    """Old label sets stay on the page. The one with the greatest value, idle here, is the current one."""
    metrics = read_metrics((RECORDINGS / "lora" / "metrics-after.txt").read_bytes())
    assert (metrics.active_loras, metrics.waiting_loras, metrics.max_loras) == (frozenset(), frozenset(), 2)


def test_a_v0_server_is_read() -> None:
    """0.6.6: gpu_cache_usage_perc, no engine label."""
    page = b"""\
# HELP vllm:num_requests_running Number of requests currently running on GPU.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 7.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="m"} 3.0
# HELP vllm:gpu_cache_usage_perc GPU KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
"""
    metrics = read_metrics(page)
    assert (metrics.queue_depth, metrics.running, metrics.kv_cache_usage) == (3, 7, 0.25)
    assert (metrics.block_size_tokens, metrics.kv_blocks) == (None, None)


def test_the_newer_name_of_the_kv_cache_usage_is_used() -> None:
    """0.9.2 to 0.10.2 have both."""
    assert read_metrics(b"vllm:gpu_cache_usage_perc 0.1\nvllm:kv_cache_usage_perc 0.6\n").kv_cache_usage == 0.6


def test_engines_of_one_server_are_summed() -> None:
    """Queues, running requests and blocks are sums. The KV cache usage is the mean."""
    page = b"""\
vllm:num_requests_running{engine="0",model_name="m"} 7.0
vllm:num_requests_running{engine="1",model_name="m"} 5.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="150"} 1.0
"""
    metrics = read_metrics(page)
    assert (metrics.queue_depth, metrics.running, metrics.kv_cache_usage) == (4, 12, 0.5)
    assert (metrics.block_size_tokens, metrics.kv_blocks) == (16, 250)


def test_counters_of_first_tokens_are_read_of_every_generation() -> None:
    """V0 has no counters of its prefix cache, and early V1 has them under another name. Engines are summed."""
    times = b"""\
vllm:num_requests_running 1
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf"} 7
vllm:time_to_first_token_seconds_count{engine="0"} 7
vllm:time_to_first_token_seconds_sum{engine="0"} 1.5
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf"} 3
vllm:time_to_first_token_seconds_count{engine="1"} 3
vllm:time_to_first_token_seconds_sum{engine="1"} 0.5
"""
    tokens = b"vllm:prompt_tokens_total 5000.0\nvllm:prompt_tokens_created 1.7e9\n"
    assert read_metrics(times + tokens).progress == PrefillCounters(10.0, 2.0, 5000.0)
    for prefix in (b"", b"gpu_"):
        cache = b"vllm:%bprefix_cache_queries_total 6000.0\nvllm:%bprefix_cache_hits_total 900\n" % (prefix, prefix)
        assert read_metrics(times + tokens + cache).progress == PrefillCounters(10.0, 2.0, 5000.0, 6000.0, 900.0)


@pytest.mark.parametrize("missing", [b"seconds_count", b"seconds_sum", b"tokens_total"])
def test_where_one_counter_is_missing_none_is_used(missing: bytes) -> None:
    page = b"""\
vllm:num_requests_running 1
vllm:time_to_first_token_seconds_count 7
vllm:time_to_first_token_seconds_sum 1.5
vllm:prompt_tokens_total 5000.0
"""
    assert read_metrics(page.replace(missing, b"other")).progress is None


def test_waiting_by_reason_is_not_waiting() -> None:
    """Its name has the same beginning."""
    page = b'vllm:num_requests_waiting_by_reason{reason="capacity"} 9\nvllm:num_requests_running 1\n'
    assert read_metrics(page).queue_depth == 0


@pytest.mark.parametrize(
    ("line", "queue_depth"),
    [
        (b"vllm:num_requests_waiting 4", 4),
        (b"  vllm:num_requests_waiting\t4\r", 4),
        (b'vllm:num_requests_waiting{model_name="m",engine="0"} 4 1712345678901', 4),
        (b'vllm:num_requests_waiting { model_name = "m" , engine = "0" , } 4', 4),
        (b'vllm:num_requests_waiting{model_name="a} 9 \\" b\\\\"} 4', 4),
        (b'vllm:num_requests_waiting{model_name=""}4', 4),
        (b"vllm:num_requests_waiting 1.2e+01", 12),
        (b"vllm:num_requests_waiting -3", 0),
        (b"vllm:num_requests_waiting NaN", 0),
        (b"vllm:num_requests_waiting +Inf", 0),
        (b"vllm:num_requests_waiting 1_000", 0),
        (b"vllm:num_requests_waiting four", 0),
        (b"vllm:num_requests_waiting", 0),
        (b"# vllm:num_requests_waiting 4", 0),
        (b'vllm:other{text="vllm:num_requests_waiting 4"} 1', 0),
        (b"vllm:num_requests_waiting_total 4", 0),
    ],
)
def test_a_line_is_read_as_the_text_format_defines_it(line: bytes, queue_depth: int) -> None:
    """Blanks, label order, escapes, timestamps, exponents, and values that are not counts."""
    assert read_metrics(b"vllm:num_requests_running 1\n" + line).queue_depth == queue_depth


def test_kv_cache_usage_stays_between_0_and_1() -> None:
    """Rounding in the server must not affect a decision."""
    assert read_metrics(b"vllm:kv_cache_usage_perc 1.0000001").kv_cache_usage == 1.0
    assert read_metrics(b"vllm:kv_cache_usage_perc -1e-17").kv_cache_usage == 0.0


def test_lora_adapters_are_taken_from_the_newest_series() -> None:
    """By their time, not by their order on the page."""
    page = b"""\
vllm:num_requests_waiting 0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.7954156739264057e+09
vllm:lora_requests_info{waiting_lora_adapters="c",running_lora_adapters="a, b",max_lora="4"} 1.7954156785121906e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="older",waiting_lora_adapters="x"} NaN
"""
    metrics = read_metrics(page)
    assert metrics.active_loras == {"a", "b"}
    assert metrics.waiting_loras == {"c"}
    assert metrics.max_loras == 4


@pytest.mark.parametrize("page", [b"", b"\n", b"# EOF\n", b"<html>404</html>", b"python_info 1\n", b"sglang:x 1\n"])
def test_a_page_without_the_needed_lines_is_a_named_error(page: bytes) -> None:
    """A wrong port must not count as an idle server."""
    with pytest.raises(NoServerMetrics, match="vllm:num_requests_waiting"):
        read_metrics(page)


FRAGMENTS = [
    b"vllm:num_requests_waiting",
    b"vllm:num_requests_running",
    b"vllm:kv_cache_usage_perc",
    b"vllm:lora_requests_info",
    b"vllm:cache_config_info",
    b"vllm:prompt_tokens_total",
    b"vllm:time_to_first_token_seconds_count",
    b"vllm:time_to_first_token_seconds_sum",
    b'{max_lora="2",running_lora_adapters="',
    b'{block_size="16",num_gpu_blocks="',
    *[bytes([item]) for item in b' \n\t"{}\\,=#'],
    b"vllm:kv_cache_usage_perc 1e308\nvllm:kv_cache_usage_perc 1e308\n",
    b"vllm:prompt_tokens_total 1e308\nvllm:prompt_tokens_total 1e308\n",
    *[b"-0", b"1e-320", b"-1e308", b"1", b"1e308", b"1e999", b"-", b"NaN", b"\xff\xfe", b"\xc2\xb2", b"9" * 400],
]


@given(st.one_of(st.binary(), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join)))
def test_no_bytes_raise_another_error(page: bytes) -> None:
    """Any page has finite values in the valid range, or raises the named error."""
    try:
        metrics = read_metrics(page)
    except NoServerMetrics:
        return
    assert metrics.queue_depth >= 0
    assert metrics.running >= 0
    assert 0.0 <= metrics.kv_cache_usage <= 1.0
    assert math.isfinite(metrics.queue_depth + metrics.running + metrics.max_loras + (metrics.kv_blocks or 0))


@pytest.mark.parametrize("metric", ["kv_cache_usage_perc", "prompt_tokens_total", "num_requests_running"])
def test_values_whose_sum_overflows_are_read(metric: str) -> None:
    """1e308 twice is more than a float holds."""
    line = f"vllm:{metric} 1e308\n".encode()
    assert read_metrics(b"vllm:num_requests_waiting 1\n" + 2 * line).queue_depth == 1


NAMES = [
    *[WAITING, RUNNING, *KV_CACHE_USAGE, FIRST_TOKENS, FIRST_TOKEN_S, PROMPT_TOKENS, *PREFIX_QUERIES, *PREFIX_HITS],
    *[LORA_INFO, CACHE_CONFIG],
]
READ = b"".join(b"# -\n%b 1\n" % name for name in NAMES)
"""A page with each metric that is read."""

ADVERSARIAL = {
    "a label without an end": (b"# -\nvllm:cache_config_info{", b"a"),
    "unterminated quotes": (READ, b'vllm:num_requests_waiting{a="'),
    "one line of names": (b"# -\n", b" vllm:num_requests_waiting 1"),
    "indented names": (b"", b" " * 15 + b"vllm:num_requests_waiting 1\n"),
    "escapes": (b'vllm:lora_requests_info{running_lora_adapters="', b"\\\\"),
    "empty lines": (READ, b"\n"),
    "comments": (READ, b"#\n"),
    "blanks": (READ, b"\n "),
    "beginnings of names": (READ, b"vllm:num_requests_waitin"),
    "series": (b"# -\n", b'vllm:lora_requests_info{running_lora_adapters="a,b"} 1\n'),
    "labels": (b"# -\n", b"vllm:cache_config_info{" + b'a="",' * 2600 + b"} 1\n"),
    "digits": (b"# -\nvllm:num_requests_waiting ", b"9"),
    "one metric after the other": (b"", READ),
}


def page_of(head: bytes, repeated: bytes, size: int) -> bytes:
    return (head + repeated * (size // len(repeated)))[:size]


def read_twice(page: bytes) -> None:
    """Twice by one reader: the second time with the state of the first."""
    reader = MetricsReader()
    _read(reader, page)
    _read(reader, page)


def cost_s(page: bytes) -> float:
    """CPU time of one reading, the minimum of several."""

    def once() -> float:
        begun_s = time.process_time()
        read_twice(page)
        return time.process_time() - begun_s

    return min(once() for _ in range(5))


QUARTER = 256 << 10


@pytest.mark.parametrize("shape", ADVERSARIAL)
def test_reading_a_page_twice_as_large_costs_about_twice_as_much(shape: str) -> None:
    """Whatever its content. A cost below that of an empty scan of the larger page is too small to compare."""
    head, repeated = ADVERSARIAL[shape]
    small, large = (cost_s(page_of(head, repeated, size)) for size in (QUARTER, 2 * QUARTER))
    assert large <= 2.6 * max(small, cost_s(b"-" * QUARTER))


@given(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map(b"".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=6).map(b"".join),
)
@settings(max_examples=25, deadline=None)
def test_any_repeated_text_is_read_in_linear_time(repeated: bytes, head: bytes) -> None:
    """Quadratic parsing of this size costs hundreds of times as much as a scan of the page."""
    page = page_of(READ + head, repeated, QUARTER)
    assert cost_s(page) <= 60 * cost_s(b"-" * QUARTER)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_mutated_pages_of_a_real_server_are_read_in_linear_time(data: st.DataObject) -> None:
    """A part of a recorded page repeated, with some bytes changed."""
    page = (RECORDINGS / "metrics-loaded.txt").read_bytes()
    start = data.draw(st.integers(0, len(page) - 1))
    part = bytearray(page[start : start + data.draw(st.integers(1, 4096))])
    for _ in range(data.draw(st.integers(0, 5))):
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.sampled_from(b'\n{}"\\ #=,9'))
    assert cost_s(page_of(page, bytes(part), QUARTER)) <= 60 * cost_s(b"-" * QUARTER)


def test_a_line_that_is_too_long_is_skipped() -> None:
    """Other series of the page are read."""
    long = b'vllm:num_requests_waiting{a="%b"} 7\n' % (b"x" * MAX_LINE_BYTES)
    assert read_metrics(long + b"vllm:num_requests_waiting 4\n").queue_depth == 4


def test_series_beyond_the_bound_are_skipped() -> None:
    assert read_metrics(b"vllm:num_requests_waiting 1\n" * (2 * MAX_SERIES)).queue_depth < MAX_SERIES


def test_names_of_adapters_are_bounded_in_number_and_length() -> None:
    """No other page names adapters of the server."""
    names = ",".join([*(f"a{number}" for number in range(2 * MAX_LORAS)), "b" * 257])
    page = b'vllm:num_requests_running 1\nvllm:lora_requests_info{running_lora_adapters="%b"} 1\n' % names.encode()
    active = read_metrics(page).active_loras
    assert len(active) == MAX_LORAS
    assert max(map(len, active)) <= 256


label_texts = st.text(st.characters(codec="utf-8"), max_size=12)
counts = st.one_of(st.integers(0, 5000).map(float), st.sampled_from([math.nan, math.inf]))
usages = st.one_of(st.floats(0, 1), st.just(math.nan))
adapters = st.lists(st.text('abc-\\"{} \n', min_size=1, max_size=6), max_size=3).map(",".join)


@st.composite
def registries(draw: st.DrawFn) -> CollectorRegistry:
    """A server's metrics in the library that vLLM uses, with other metrics in between."""
    registry = CollectorRegistry()
    engines = [str(engine) for engine in range(draw(st.integers(1, 3)))]
    model = draw(label_texts)

    def gauge(name: str, values: st.SearchStrategy[float], **labels: str) -> None:
        metric = Gauge(f"vllm:{name}", draw(label_texts), ["engine", "model_name", *labels], registry=registry)
        for engine in engines:
            metric.labels(engine, model, *labels.values()).set(draw(values))

    for name in draw(st.permutations(["running", "waiting", "waiting_by_reason", "running_in_dreams"])):
        gauge(f"num_requests_{name}", counts, reason="capacity")
    for name in draw(st.sampled_from([["kv"], ["gpu"], ["gpu", "kv"]])):
        gauge(f"{name}_cache_usage_perc", usages)
    lora = Gauge(
        "vllm:lora_requests_info",
        "-",
        ["running_lora_adapters", "max_lora", "waiting_lora_adapters"],
        registry=registry,
    )
    for at in draw(st.lists(st.floats(1e9, 2e9), max_size=4, unique=True)):
        lora.labels(draw(adapters), "3", draw(adapters)).set(at)
    config = Gauge("vllm:cache_config_info", "-", ["a", "block_size", "engine", "num_gpu_blocks"], registry=registry)
    blocks = draw(st.one_of(st.integers(1, 99_999).map(str), st.just("None")))
    for engine in engines:
        config.labels(draw(label_texts), "16", engine, blocks).set(1)
    return registry


def by_the_library(page: str) -> ServerMetrics:
    """The result of the library's full parser, combined by the same rules."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def named(name: str) -> list[Sample]:
        return [sample for sample in samples if sample.name == name]

    def finite(name: str) -> list[float]:
        return [sample.value for sample in named(name) if math.isfinite(sample.value)]

    def names(joined: str) -> frozenset[str]:
        return frozenset(item.strip() for item in joined.split(",") if item.strip())

    def total(values: Iterable[float]) -> int:
        return int(sum(values))

    usage = finite("vllm:kv_cache_usage_perc") or finite("vllm:gpu_cache_usage_perc")
    lora = max(named("vllm:lora_requests_info"), key=lambda sample: sample.value, default=None)
    configs = [sample.labels for sample in named("vllm:cache_config_info")]
    blocks = [int(labels["num_gpu_blocks"]) for labels in configs if labels["num_gpu_blocks"] != "None"]
    return ServerMetrics(
        queue_depth=total(finite("vllm:num_requests_waiting")),
        running=total(finite("vllm:num_requests_running")),
        kv_cache_usage=math.fsum(usage) / len(usage) if usage else 0.0,
        active_loras=names(lora.labels["running_lora_adapters"]) if lora else frozenset(),
        waiting_loras=names(lora.labels["waiting_lora_adapters"]) if lora else frozenset(),
        max_loras=int(lora.labels["max_lora"]) if lora else 0,
        block_size_tokens=16,
        kv_blocks=sum(blocks) if blocks else None,
    )


generate_openmetrics = partial(escaping_openmetrics, escaping=ALLOWUTF8)
"""With its default escaping the library writes `vllm_` for `vllm:` in OpenMetrics, but not in the text format."""


@pytest.mark.parametrize("generate", [generate_text, generate_openmetrics], ids=["text", "openmetrics"])
@given(registry=registries())
def test_the_parser_agrees_with_the_prometheus_library(
    generate: Callable[[CollectorRegistry], bytes], registry: CollectorRegistry
) -> None:
    """Pages written by the library, in either format, have the same result with both parsers."""
    page = generate(registry)
    expected = by_the_library(generate_text(registry).decode())
    try:
        assert read_metrics(page) == expected
    except NoServerMetrics:
        assert expected.queue_depth == expected.running == expected.kv_cache_usage == 0


@st.composite
def lives(draw: st.DrawFn) -> list[bytes]:
    """Consecutive pages of one address: numbers grow, adapters are added, and the server may be replaced."""
    pages: list[bytes] = []
    for _ in range(draw(st.integers(1, 2))):
        registry = draw(registries())
        engines = [str(engine) for engine in range(draw(st.integers(1, 3)))]
        first_token = Histogram("vllm:time_to_first_token_seconds", "-", ["engine"], registry=registry)
        counters = [
            Counter(f"vllm:{name}", "-", ["engine"], registry=registry)
            for name in draw(st.permutations(["prompt_tokens", "prefix_cache_queries", "prefix_cache_hits"]))
        ]
        lora = Gauge("vllm:lora_requests_info_", "-", ["running_lora_adapters"], registry=registry)
        for _ in range(draw(st.integers(1, 4))):
            for engine in engines:
                if draw(st.booleans()):
                    first_token.labels(engine).observe(draw(st.floats(0, 9)))
                for counter in counters:
                    counter.labels(engine).inc(draw(st.sampled_from([0, 1, 10**6, math.nan])))
            lora.labels(draw(adapters)).set(draw(counts))
            pages.append(generate_text(registry))
    return pages


@given(pages=lives())
def test_known_metrics_of_one_page_do_not_change_the_next(pages: list[bytes]) -> None:
    """A reader with previous pages reads a page like a reader without them."""
    reader = MetricsReader()
    for page in pages:
        assert _read(reader, page) == _read(MetricsReader(), page)


def test_an_engine_that_is_added_is_counted() -> None:
    """A server was restarted with more engines, so the text at the known position is only a part of the metric."""
    reader = MetricsReader()
    page = generate_text(engines_of(1))
    assert reader.read(page).running == 5
    assert reader.read(generate_text(engines_of(3))).running == 15
    assert reader.read(page).running == 5


@pytest.mark.parametrize("engines", [("0", "1"), ("1", "0")])
def test_first_tokens_of_an_engine_that_is_added_are_counted(engines: tuple[str, str]) -> None:
    """Before or after the known one."""
    reader = MetricsReader()
    of_each = {
        engine: b'vllm:time_to_first_token_seconds_bucket{engine="%b",le="+Inf"} 7\n'
        b'vllm:time_to_first_token_seconds_count{engine="%b"} 7\n'
        b'vllm:time_to_first_token_seconds_sum{engine="%b"} 1.5\n' % ((engine.encode(),) * 3)
        for engine in engines
    }
    head = (
        b"vllm:num_requests_running 1\nvllm:prompt_tokens_total 10\n# TYPE vllm:time_to_first_token_seconds histogram\n"
    )
    for page, expected in ((of_each["0"], 7.0), (b"".join(of_each.values()), 14.0)):
        progress = reader.read(head + page + b"# EOF\n").progress
        assert progress is not None
        assert progress.first_tokens == expected


def test_a_page_that_grows_by_more_than_digits_is_read() -> None:
    """The metric is not near its previous position."""
    reader = MetricsReader()
    page = generate_text(engines_of(1))
    assert reader.read(page).running == 5
    assert reader.read(b"# HELP other -\n" * 1000 + page.replace(b" 5.0", b" 6.0")).running == 6


def test_adapters_of_a_server_that_had_none_are_found_soon() -> None:
    """It was restarted with them."""
    reader = MetricsReader()
    page = generate_text(engines_of(1))
    reader.read(page)
    with_loras = page + b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters=""} 1\n'
    pages = [reader.read(with_loras).max_loras for _ in range(2 * LORA_SEARCH_INTERVAL)]
    assert pages == [0] * (LORA_SEARCH_INTERVAL - 1) + [2] * (LORA_SEARCH_INTERVAL + 1)


def engines_of(count: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    running = Gauge("vllm:num_requests_running", "-", ["engine"], registry=registry)
    for engine in range(count):
        running.labels(str(engine)).set(5)
    return registry


def _read(reader: MetricsReader, page: bytes) -> ServerMetrics | None:
    try:
        return reader.read(page)
    except NoServerMetrics:
        return None
