"""The summary as `vllm bench serve` prints it, line for line."""

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum

from benchmark.load.pace import Pace
from benchmark.results.summary import Distribution, Summary

_WIDTH = 50


class Latency(StrEnum):
    """The latencies that `--percentile-metrics` selects from."""

    TTFT = "ttft"
    TPOT = "tpot"
    ITL = "itl"
    E2EL = "e2el"

    def of(self, summary: Summary) -> Distribution:
        """The figures of this latency."""
        return {
            Latency.TTFT: summary.ttft,
            Latency.TPOT: summary.tpot,
            Latency.ITL: summary.itl,
            Latency.E2EL: summary.e2el,
        }[self]


_HEADINGS = {
    Latency.TTFT: "Time to First Token",
    Latency.TPOT: "Time per Output Token (excl. 1st token)",
    Latency.ITL: "Inter-token Latency",
    Latency.E2EL: "End-to-end Latency",
}
DEFAULT_LATENCIES = (Latency.TTFT, Latency.TPOT, Latency.ITL)


def printed_summary(summary: Summary, pace: Pace, latencies: Sequence[Latency] = DEFAULT_LATENCIES) -> str:
    """The whole table. Latencies keep the order of `vllm bench serve`, whatever the order of `latencies`."""
    lines = [
        f"{' Serving Benchmark Result ':=^{_WIDTH}}",
        *_counts(summary, pace),
        *(line for latency in Latency if latency in latencies for line in _latency(latency, latency.of(summary))),
        "=" * _WIDTH,
    ]
    return "\n".join(lines)


def percentile_word(percentile: float) -> str:
    """The percentile without a superfluous `.0`: `99` or `99.9`."""
    return str(int(percentile)) if percentile == int(percentile) else str(percentile)


def _counts(summary: Summary, pace: Pace) -> Iterator[str]:
    yield _count("Successful requests:", summary.completed)
    yield _count("Failed requests:", summary.failed)
    if pace.max_concurrency is not None:
        yield _count("Maximum request concurrency:", pace.max_concurrency)
    if not math.isinf(pace.request_rate):
        yield _figure("Request rate configured (RPS):", pace.request_rate)
    yield _figure("Benchmark duration (s):", summary.duration_s)
    yield _count("Total input tokens:", summary.total_input_tokens)
    yield _count("Total generated tokens:", summary.total_output_tokens)
    yield _figure("Request throughput (req/s):", summary.request_throughput)
    if summary.request_goodput is not None:
        yield _figure("Request goodput (req/s):", summary.request_goodput)
    yield _figure("Output token throughput (tok/s):", summary.output_throughput)
    yield _figure("Peak output token throughput (tok/s):", summary.max_output_tokens_per_s)
    yield _figure("Peak concurrent requests:", summary.max_concurrent_requests)
    yield _figure("Total token throughput (tok/s):", summary.total_token_throughput)


def _latency(latency: Latency, figures: Distribution) -> Iterator[str]:
    name = latency.value.upper()
    yield f"{_HEADINGS[latency]:-^{_WIDTH}}"
    yield _figure(f"Mean {name} (ms):", figures.mean_ms)
    yield _figure(f"Median {name} (ms):", figures.median_ms)
    for percentile, value_ms in figures.percentiles_ms.items():
        yield _figure(f"P{percentile_word(percentile)} {name} (ms):", value_ms)


def _count(label: str, value: int) -> str:
    return f"{label:<40} {value:<10}"


def _figure(label: str, value: float) -> str:
    return f"{label:<40} {value:<10.2f}"
