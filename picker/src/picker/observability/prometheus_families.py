"""Metric families of the request counters.

They have the names of llm-d's endpoint picker, those of the Gateway API Inference Extension (GAIE), which existing
dashboards use, and the picker's own names."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Sample

from picker.observability.histogram import Histogram
from picker.observability.piecewise import lazy
from picker.observability.request_counts import RequestCounters, by_model, by_pool

MODEL_LABELS = ("model_name", "target_model_name")
MODEL_PREFIXES = ("inference_objective", "inference_model")
"""GAIE's current prefix and the one of its earlier versions. Both have the same samples."""

Labelled = Iterable[tuple[Sequence[str], float]]
"""Samples: the labels' values, and the value."""


def counter(name: str, documentation: str, labels: Sequence[str], samples: Labelled) -> Metric:
    """Returns a family whose samples are made as they are read. They can be read once."""
    return lazy(CounterMetricFamily(name, documentation, labels=labels), _samples(name, labels, samples))


def gauge(name: str, documentation: str, labels: Sequence[str], samples: Labelled) -> Metric:
    """Returns a family whose samples are made as they are read. They can be read once."""
    return lazy(GaugeMetricFamily(name, documentation, labels=labels), _samples(name, labels, samples))


def histogram(
    name: str, documentation: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    """Returns a family whose samples are made as they are read. They can be read once."""
    return lazy(HistogramMetricFamily(name, documentation, labels=labels), _buckets(name, labels, samples))


def _samples(name: str, labels: Sequence[str], samples: Labelled) -> Iterator[Sample]:
    for values, value in samples:
        yield Sample(name, dict(zip(labels, values, strict=True)), value)


def _buckets(name: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], Histogram]]) -> Iterator[Sample]:
    for values, value in samples:
        own = dict(zip(labels, values, strict=True))
        count, total = value.count, value.sum
        for bound, at_most in value.cumulative():
            yield Sample(f"{name}_bucket", {**own, "le": bound}, at_most)
        yield Sample(f"{name}_count", own, count)
        yield Sample(f"{name}_sum", own, total)


_MODEL_HISTOGRAMS: Sequence[tuple[str, str, Callable[[RequestCounters], Histogram]]] = (
    (
        "request_duration_seconds",
        "From the pick to the end of the response.",
        lambda counters: counters.settled().seconds,
    ),
    ("request_sizes", "Bytes of request bodies.", lambda counters: counters.settled().body_bytes),
    ("input_tokens", "Tokens of prompts, estimated by their bytes.", lambda counters: counters.settled().prompt_tokens),
    (
        "request_ttft_seconds",
        "From the pick to the response headers, of the sampled responses.",
        lambda counters: counters.settled().first_byte_seconds,
    ),
)


def model_families(counters: Sequence[RequestCounters]) -> Iterable[Metric]:
    """Returns GAIE's metrics by model."""
    models = by_model(counters)
    for prefix in MODEL_PREFIXES:
        yield counter(
            f"{prefix}_request_total",
            "Requests, rejected ones included.",
            MODEL_LABELS,
            [(model, sum(entry.requests for entry in some)) for model, some in models.items()],
        )
        yield counter(
            f"{prefix}_request_error_total",
            "Requests that the picker rejected or a model server answered with an error, by code.",
            (*MODEL_LABELS, "error_code"),
            [((*model, code), count) for model, some in models.items() for code, count in _errors(some).items()],
        )
        yield gauge(
            f"{prefix}_running_requests",
            "Requests that have an endpoint and have not ended.",
            MODEL_LABELS,
            [(model, sum(entry.running for entry in some)) for model, some in models.items()],
        )
        for name, documentation, of in _MODEL_HISTOGRAMS:
            yield histogram(f"{prefix}_{name}", documentation, MODEL_LABELS, not_empty(models, of))


def not_empty(
    models: Mapping[tuple[str, str], Sequence[RequestCounters]], of: Callable[[RequestCounters], Histogram]
) -> Iterator[tuple[Sequence[str], Histogram]]:
    """Returns the sum of a histogram by model, for models that have any value."""
    for model, some in models.items():
        total = Histogram.total(of(entry) for entry in some)
        if total.count:
            yield model, total


def _errors(counters: Iterable[RequestCounters]) -> Mapping[str, int]:
    errors: dict[str, int] = {}
    for entry in counters:
        for (code, _), count in entry.errors.items():
            errors[code.gaie] = errors.get(code.gaie, 0) + count
    return errors


def pool_families(counters: Iterable[RequestCounters]) -> Iterable[Metric]:
    """Returns the metrics by pool."""
    pools = by_pool(counters)
    decisions: dict[tuple[str, str], int] = {}
    for some in pools.values():
        for entry in some:
            key = entry.pool, entry.strategy
            decisions[key] = decisions.get(key, 0) + entry.picked
    yield counter(
        "inference_gateway_decisions_total", "Requests that got an endpoint.", ("pool", "strategy"), decisions.items()
    )
    for name, documentation, of in _POOL_COUNTERS:
        totals = [((pool,), sum(of(entry) for entry in some)) for pool, some in pools.items()]
        yield counter(f"inference_gateway_{name}", documentation, ("pool",), totals)
    yield counter(
        "inference_gateway_slo_total",
        "Ended requests that asked for a latency, by whether it was kept.",
        ("pool", "type", "outcome"),
        [
            ((pool, "ttft", outcome), count)
            for pool, some in pools.items()
            for outcome, count in sum((entry.ttft_slos for entry in some), Counter[str]()).items()
        ],
    )
    for name, documentation, of_histogram in _POOL_HISTOGRAMS:
        totals = [((pool,), Histogram.total(of_histogram(entry) for entry in some)) for pool, some in pools.items()]
        yield histogram(f"inference_gateway_{name}", documentation, ("pool",), totals)


_POOL_COUNTERS: Sequence[tuple[str, str, Callable[[RequestCounters], float]]] = (
    (
        "prompt_tokens_total",
        "Tokens of prompts that got an endpoint, estimated.",
        lambda counters: counters.settled().prompt_tokens.sum,
    ),
    (
        "predicted_cached_tokens_total",
        "Of those tokens, the ones expected in the prefix cache of the picked endpoint.",
        lambda counters: counters.settled().cached_tokens,
    ),
    (
        "rerouted_total",
        "Responses from another endpoint than the picked one, of the sampled responses.",
        lambda counters: counters.rerouted,
    ),
)

_POOL_HISTOGRAMS: Sequence[tuple[str, str, Callable[[RequestCounters], Histogram]]] = (
    ("request_seconds", "From the pick to the end of the response.", lambda counters: counters.settled().seconds),
    (
        "time_to_first_byte_seconds",
        "From the pick to the response headers, of the sampled responses.",
        lambda counters: counters.settled().first_byte_seconds,
    ),
)


def picker_families(counters: Sequence[RequestCounters], failed_decisions: int, *, legacy: bool) -> Iterable[Metric]:
    """Returns the metrics of the decisions over all pools. `legacy`: under GAIE's names, too."""
    if counters:
        body_bytes = sum(entry.settled().body_bytes.sum for entry in counters)
        yield counter("inference_gateway_body_bytes_total", "Bytes of request bodies.", (), [((), body_bytes)])
        for name, documentation, of in (
            ("scheduler_e2e_duration_seconds", "Duration of a decision, prompt hashing included.", _decision_seconds),
            ("prefix_indexer_hit_ratio", "Share of a prompt expected in the cache of the picked endpoint.", _hit_ratio),
        ):
            total = Histogram.total(of(entry) for entry in counters)
            for prefix in ("llm_d_epp", "inference_extension")[: 1 + legacy]:
                yield histogram(f"{prefix}_{name}", documentation, (), [((), total)])
    if not legacy:
        return
    yield counter(
        "inference_extension_scheduler_attempts_total",
        "Decisions that assigned an endpoint (success), and those that did not (failure).",
        ("status",),
        [(("success",), sum(entry.picked for entry in counters)), (("failure",), failed_decisions)],
    )


def _decision_seconds(counters: RequestCounters) -> Histogram:
    return counters.settled().decision_seconds


def _hit_ratio(counters: RequestCounters) -> Histogram:
    return counters.settled().hit_ratio
