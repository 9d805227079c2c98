"""What was measured of each request."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.workload import Workload


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One request. Times are in seconds; those of day count from the run's start."""

    arrived_s: float
    """When it was due: the run's start in a closed loop, where it waits for a free place in the client."""
    started_s: float
    """When it was sent."""
    token_times_s: NDArray[np.float64]
    """From `started_s` to each event that brought tokens; empty if none did."""
    ended_s: float
    """From `started_s` to the end of the answer or to the failure."""
    prompt_tokens: int
    """As the server counted; as planned where it did not tell."""
    output_tokens: int
    """As the server counted; one an event where it did not tell."""
    planned_prompt_tokens: int
    status: int | None
    """Of HTTP; None when there was no answer."""
    error: str | None
    """Why the request failed; None if it did not."""
    text: str | None = None
    """The answer, if it was to be kept."""

    @property
    def ttft_s(self) -> float:
        """0 for a request that brought no token."""
        return float(self.token_times_s[0]) if len(self.token_times_s) else 0.0

    @property
    def latency_s(self) -> float:
        """To the last token."""
        return float(self.token_times_s[-1]) if len(self.token_times_s) else 0.0

    @property
    def tpot_s(self) -> float | None:
        """Mean time of the tokens after the first; None if there was none."""
        return (self.latency_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A run."""

    workload: Workload
    samples: tuple[Sample, ...]
    """In the workload's order. Turns that were never sent, because one before them failed, have none."""
    duration_s: float
    """From the first request to the end of the last."""
    began_s: float
    """On the clock `time.perf_counter`, for joining it with what was watched meanwhile."""

    @property
    def failed(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.error is not None)

    @property
    def completed(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.error is None)
