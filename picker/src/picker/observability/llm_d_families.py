"""Metric families with the names of llm-d's endpoint picker, from the same counters as the others.

`docs/metrics.md` lists its other families, and why the picker cannot report them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric

from picker.observability.histogram import Histogram
from picker.observability.prometheus_families import MODEL_LABELS, counter, gauge, histogram, not_empty
from picker.observability.request_counts import RequestCounters, by_model
from picker.observability.slo_outcome import SloOutcome

PREFIX = "llm_d_epp"

_HISTOGRAMS: Sequence[tuple[str, str, Callable[[RequestCounters], Histogram]]] = (
    (
        "request_duration_seconds",
        "From the pick to the end of the response.",
        lambda counters: counters.settled().seconds,
    ),
    ("request_size_bytes", "Bytes of request bodies.", lambda counters: counters.settled().body_bytes),
    (
        "request_input_tokens",
        "Tokens of prompts, estimated by their bytes.",
        lambda counters: counters.settled().prompt_tokens,
    ),
)


def llm_d_request_families(counters: Iterable[RequestCounters]) -> Iterable[Metric]:
    """Returns the metrics by model. Counters and the gauge are by priority, too."""
    models = by_model(counters)
    requests: Counter[tuple[str, ...]] = Counter()
    running: Counter[tuple[str, ...]] = Counter()
    errors: Counter[tuple[str, ...]] = Counter()
    missed: Counter[tuple[str, ...]] = Counter()
    for model, some in models.items():
        for entry in some:
            entry.settle()
            for priority, count in entry.by_priority.items():
                requests[*model, priority] += count
                running[*model, priority] += count - entry.ended_by_priority[priority]
            for (code, priority), count in entry.errors.items():
                errors[*model, priority, code.llm_d] += count
            if SloOutcome.MISSED in entry.ttft_slos:
                missed[*model, "ttft"] += entry.ttft_slos[SloOutcome.MISSED]
    labels = (*MODEL_LABELS, "priority")
    yield counter(f"{PREFIX}_request_total", "Requests, rejected ones included.", labels, requests.items())
    yield counter(
        f"{PREFIX}_request_error_total",
        "Requests that the picker rejected or a model server answered with an error, by code.",
        (*labels, "error_code"),
        errors.items(),
    )
    yield gauge(
        f"{PREFIX}_request_running", "Requests that have an endpoint and have not ended.", labels, running.items()
    )
    yield counter(
        f"{PREFIX}_request_slo_violation_total",
        "Ended requests that missed the latency that they asked for.",
        (*MODEL_LABELS, "type"),
        missed.items(),
    )
    for name, documentation, of in _HISTOGRAMS:
        yield histogram(f"{PREFIX}_{name}", documentation, MODEL_LABELS, not_empty(models, of))
