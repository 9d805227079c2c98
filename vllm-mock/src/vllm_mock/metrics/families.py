"""The metric families of vLLM 0.32 in the order of its page: names, labels and buckets as recorded. Like vLLM, by
prometheus_client, so that format, `_created` families and process metrics are the real thing."""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

TTFT_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
STEP_TOKENS = (1, *(2**power for power in range(3, 15)))
SAMPLES = (1, 2, 5, 10, 20)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)


def one_two_five(limit: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... up to `limit`."""
    return tuple(
        step * 10**power for power in range(len(str(limit))) for step in (1, 2, 5) if step * 10**power <= limit
    )


@dataclass(frozen=True, slots=True)
class Families:
    """Every family whose values move; the others are registered with their constant values."""

    running: Gauge
    waiting: Gauge
    waiting_capacity: Gauge
    waiting_deferred: Gauge
    kv_cache_usage: Gauge
    prefix_queries: Counter
    prefix_hits: Counter
    preemptions: Counter
    prompt_tokens: Counter
    prompt_computed: Counter
    prompt_cache_hit: Counter
    prompt_cached: Counter
    prompt_cached_on_device: Counter
    generation_tokens: Counter
    success: Counter
    """Labelled by finished_reason, the other labels are bound."""
    rejections: Counter
    request_prompt_tokens: Histogram
    request_generation_tokens: Histogram
    step_tokens: Histogram
    max_generation_tokens: Histogram
    params_n: Histogram
    params_max_tokens: Histogram
    ttft_s: Histogram
    inter_token_s: Histogram
    time_per_output_token_s: Histogram
    e2e_s: Histogram
    queue_s: Histogram
    inference_s: Histogram
    prefill_s: Histogram
    decode_s: Histogram
    request_preemptions: Histogram
    prefill_kv_computed_tokens: Histogram


class _Page:
    """Registers families, bound to the labels that nearly all of them carry."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._registry = registry
        self._model = model

    def gauge(self, name: str, text: str, **more: str) -> Gauge:
        return self._bound(Gauge(f"vllm:{name}", text, ("model_name", "engine", *more), registry=self._registry), more)

    def counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(f"vllm:{name}", text, ("model_name", "engine", *more), registry=self._registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        family = Histogram(f"vllm:{name}", text, ("model_name", "engine"), buckets=buckets, registry=self._registry)
        return family.labels(self._model, "0")

    def bound(self, counter: Counter, *values: str) -> Counter:
        return counter.labels(self._model, "0", *values)

    def plain(self, name: str, text: str) -> Counter:
        return self.bound(self.counter(name, text))

    def _bound(self, gauge: Gauge, more: dict[str, str]) -> Gauge:
        return gauge.labels(self._model, "0", *more.values())


def register(registry: CollectorRegistry, model: str, max_model_len: int, cache_config: dict[str, str]) -> Families:
    """All families of the page, in its order, in `registry`."""
    GCCollector(registry=registry)
    PlatformCollector(registry=registry)
    ProcessCollector(registry=registry)
    page = _Page(registry, model)
    for what in ("flops", "read_bytes", "write_bytes"):
        page.plain(f"estimated_{what}_per_gpu", f"Estimated {what} per GPU.")
    counts = one_two_five(max_model_len)
    running = page.gauge("num_requests_running", "Requests in the running batch.")
    waiting = page.gauge("num_requests_waiting", "Requests that wait to be processed.")
    by_reason = Gauge(
        "vllm:num_requests_waiting_by_reason",
        "Requests that wait, by reason.",
        ("model_name", "engine", "reason"),
        registry=registry,
    )
    waiting_capacity, waiting_deferred = (by_reason.labels(model, "0", reason) for reason in ("capacity", "deferred"))
    sleep = Gauge(
        "vllm:engine_sleep_state",
        "Whether the engine sleeps.",
        ("model_name", "engine", "sleep_state"),
        registry=registry,
    )
    for state in ("awake", "weights_offloaded", "discard_all"):
        sleep.labels(model, "0", state).set(1 if state == "awake" else 0)
    kv_cache_usage = page.gauge("kv_cache_usage_perc", "KV cache usage; 1 is all of it.")
    prefix_queries = page.plain("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
    prefix_hits = page.plain("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
    for cache in ("external_prefix", "mm"):
        page.plain(f"{cache}_cache_queries", f"Look-ups in the {cache} cache.")
        page.plain(f"{cache}_cache_hits", f"Hits in the {cache} cache.")
    preemptions = page.plain("num_preemptions", "Preemptions.")
    prompt_tokens = page.plain("prompt_tokens", "Prompt tokens processed.")
    by_source = page.counter("prompt_tokens_by_source", "Prompt tokens by source.", "source")
    computed, cache_hit, _ = (
        page.bound(by_source, source) for source in ("local_compute", "local_cache_hit", "external_kv_transfer")
    )
    prompt_cached = page.plain("prompt_tokens_cached", "Prompt tokens that were cached.")
    cached_by = page.counter("prompt_tokens_cached_by_source", "Cached prompt tokens by source.", "source")
    on_device, *_ = (
        page.bound(cached_by, source) for source in ("device", "host", "p2p", "disk", "external_unspecified")
    )
    generation_tokens = page.plain("generation_tokens", "Tokens generated.")
    success = page.counter("request_success", "Finished requests by reason.", "finished_reason")
    for reason in ("stop", "length", "abort", "error", "repetition"):
        page.bound(success, reason)
    rejections = Counter(
        "vllm:admission_rejections", "Requests refused at the door.", ("model_name", "reason"), registry=registry
    )
    for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
        rejections.labels(model, reason)
    families = Families(
        running,
        waiting,
        waiting_capacity,
        waiting_deferred,
        kv_cache_usage,
        prefix_queries,
        prefix_hits,
        preemptions,
        prompt_tokens,
        computed,
        cache_hit,
        prompt_cached,
        on_device,
        generation_tokens,
        success,
        rejections,
        page.histogram("request_prompt_tokens", "Prompt tokens of a request.", counts),
        page.histogram("request_generation_tokens", "Tokens generated for a request.", counts),
        page.histogram("iteration_tokens_total", "Tokens of an engine step.", STEP_TOKENS),
        page.histogram("request_max_num_generation_tokens", "Most tokens generated of a request's samples.", counts),
        page.histogram("request_params_n", "The n of a request.", SAMPLES),
        page.histogram("request_params_max_tokens", "The max_tokens of a request.", counts),
        page.histogram("time_to_first_token_seconds", "Time to the first token.", TTFT_S),
        page.histogram("inter_token_latency_seconds", "Time between two tokens.", PER_TOKEN_S),
        page.histogram("request_time_per_output_token_seconds", "Mean time of a token after the first.", PER_TOKEN_S),
        page.histogram("e2e_request_latency_seconds", "Time of a whole request.", REQUEST_S),
        page.histogram("request_queue_time_seconds", "Time in the queue.", REQUEST_S),
        page.histogram("request_inference_time_seconds", "Time from first scheduled to last token.", REQUEST_S),
        page.histogram("request_prefill_time_seconds", "Time from first scheduled to first token.", REQUEST_S),
        page.histogram("request_decode_time_seconds", "Time from first to last token.", REQUEST_S),
        page.histogram("request_num_preemptions", "Preemptions of a request.", PREEMPTIONS),
        page.histogram("request_prefill_kv_computed_tokens", "Prompt tokens computed anew.", counts),
    )
    labels = cache_config | {"engine": "0"}
    Gauge("vllm:cache_config_info", "Settings of the KV cache.", tuple(labels), registry=registry).labels(**labels).set(
        1
    )
    return families
