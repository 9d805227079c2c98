"""When requests arrive."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Pace:
    """Closed loop: `max_concurrency` alone. Open loop: `request_rate`, with or without a bound on concurrency."""

    max_concurrency: int | None = None
    """Conversations at a time; None for no bound."""
    request_rate: float = math.inf
    """Conversations a second; infinity: all are there at the start."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps: 1 is a Poisson process, less is burstier, infinity is regular."""


def arrival_times_s(pace: Pace, count: int, seed: int) -> list[float]:
    """When each of `count` conversations arrives, in seconds from the start. The gaps are stretched so that the last
    arrives at count / rate, as `vllm bench serve` does it: the rate offered does not depend on the seed."""
    if math.isinf(pace.request_rate) or not count:
        return [0.0] * count
    if math.isinf(pace.burstiness):
        return [(index + 1) / pace.request_rate for index in range(count)]
    scale = 1 / (pace.request_rate * pace.burstiness)
    times = np.cumsum(np.random.default_rng(seed).gamma(pace.burstiness, scale, count))
    return [float(time) for time in times * (count / pace.request_rate / times[-1])]
