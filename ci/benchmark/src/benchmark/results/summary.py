"""The figures of a run, computed as in `vllm bench serve` 0.32."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.load.samples import LoadResult, Sample

DEFAULT_PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution of a latency in ms. All values are 0 if nothing was measured."""

    mean_ms: float
    median_ms: float
    std_ms: float
    """Standard deviation of the population."""
    percentiles_ms: Mapping[float, float]
    """Latency by percentile (0 to 100), interpolated linearly."""


@dataclass(frozen=True, slots=True)
class Goals:
    """Upper bounds that a good request meets, in ms; None means no bound."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None

    @property
    def given(self) -> bool:
        return self != Goals()

    def met_by(self, sample: Sample) -> bool:
        """Whether a request meets all goals. A request with one token has no TPOT, which counts as 0."""
        measured = (
            (self.ttft_ms, sample.ttft_s),
            (self.tpot_ms, sample.tpot_s or 0.0),
            (self.e2el_ms, sample.latency_s),
        )
        return all(goal_ms is None or seconds <= goal_ms / 1000 for goal_ms, seconds in measured)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run. All but `failed` are of the successful requests. Throughputs are per second of the run."""

    completed: int
    failed: int
    duration_s: float
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    request_goodput: float | None
    """Requests per second that met the goals; None without goals."""
    output_throughput: float
    total_token_throughput: float
    """Input and output tokens per second."""
    max_output_tokens_per_s: float
    """Events in the busiest second of the run."""
    max_concurrent_requests: int
    """Most requests in flight at any time within one second of the run. May exceed the real peak, as in vLLM."""
    ttft: Distribution
    tpot: Distribution
    """Over the requests with more than one token."""
    itl: Distribution
    """Over all gaps between events of all requests."""
    e2el: Distribution


def summarise(
    result: LoadResult, percentiles: Sequence[float] = DEFAULT_PERCENTILES, goals: Goals | None = None
) -> Summary:
    """Computes the figures of a run."""
    good = result.completed
    seconds = result.duration_s
    total_input = sum(sample.prompt_tokens for sample in good)
    total_output = sum(sample.output_tokens for sample in good)
    busiest_tokens, busiest_requests = _busiest_second(good)
    gaps = [np.diff(sample.token_times_s) for sample in good]
    return Summary(
        completed=len(good),
        failed=len(result.failed),
        duration_s=seconds,
        total_input_tokens=total_input,
        total_output_tokens=total_output,
        request_throughput=len(good) / seconds,
        request_goodput=sum(map(goals.met_by, good)) / seconds if goals is not None and goals.given else None,
        output_throughput=total_output / seconds,
        total_token_throughput=(total_input + total_output) / seconds,
        max_output_tokens_per_s=busiest_tokens,
        max_concurrent_requests=busiest_requests,
        ttft=_distribution(np.array([sample.ttft_s for sample in good]), percentiles),
        tpot=_distribution(np.array([tpot_s for sample in good if (tpot_s := sample.tpot_s) is not None]), percentiles),
        itl=_distribution(np.concatenate(gaps) if gaps else np.array([]), percentiles),
        e2el=_distribution(np.array([sample.latency_s for sample in good]), percentiles),
    )


def _distribution(seconds: NDArray[np.float64], percentiles: Sequence[float]) -> Distribution:
    measured = seconds * 1000 if len(seconds) else np.zeros(1)
    return Distribution(
        mean_ms=float(np.mean(measured)),
        median_ms=float(np.median(measured)),
        std_ms=float(np.std(measured)),
        percentiles_ms={percentile: float(np.percentile(measured, percentile)) for percentile in percentiles},
    )


def _busiest_second(samples: Sequence[Sample]) -> tuple[float, int]:
    """The most tokens and the most requests in one second. Seconds count from the first request."""
    if not samples:
        return 0.0, 0
    first_s = min(sample.started_s for sample in samples)
    last_s = max(sample.started_s + sample.latency_s for sample in samples)
    seconds = math.ceil(last_s - first_s) + 1
    tokens = np.zeros(seconds)
    requests = np.zeros(seconds, dtype=int)
    for sample in samples:
        start_s = sample.started_s - first_s
        times = (sample.token_times_s + start_s).astype(int)
        tokens += np.bincount(times, minlength=seconds)[:seconds]
        requests[int(start_s) : int(start_s + sample.latency_s) + 1] += 1
    return float(tokens.max()), int(requests.max())
