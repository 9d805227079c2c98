"""The measurements of each request."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.workload import Workload


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The measurements of one request. All times are in seconds."""

    arrived_s: float
    """Arrival time, from the run's start. In a closed loop it is 0, and the request waits for a free slot."""
    started_s: float
    """Time of sending, from the run's start."""
    token_times_s: NDArray[np.float64]
    """Time from `started_s` to each event with tokens; empty if there was none."""
    ended_s: float
    """Time from `started_s` to the end of the response or to the failure."""
    prompt_tokens: int
    """The server's count, or the planned length if the server reports none."""
    output_tokens: int
    """The server's count, or the number of events if the server reports none."""
    planned_prompt_tokens: int
    status: int | None
    """HTTP status; None if there was no response."""
    error: str | None
    """Why the request failed; None if it succeeded."""
    text: str | None = None
    """The generated text, if it was kept."""

    @property
    def ttft_s(self) -> float:
        """Time to first token; 0 for a request without tokens."""
        return float(self.token_times_s[0]) if len(self.token_times_s) else 0.0

    @property
    def latency_s(self) -> float:
        """Time from `started_s` to the last token; 0 for a request without tokens."""
        return float(self.token_times_s[-1]) if len(self.token_times_s) else 0.0

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; None if there was none."""
        return (self.latency_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of a run."""

    workload: Workload
    samples: tuple[Sample, ...]
    """Samples in the workload's order. A turn that was not sent, because an earlier turn failed, has none."""
    duration_s: float
    """Time from the first request to the end of the last."""
    began_s: float
    """Start on the clock `time.perf_counter`, to align it with the recording of the replicas."""

    @property
    def failed(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.error is not None)

    @property
    def completed(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.error is None)
