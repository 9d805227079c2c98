"""The arrival times of requests."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a load. Closed loop: only `max_concurrency`. Open loop: `request_rate`, with or without a limit on
    concurrency."""

    max_concurrency: int | None = None
    """Maximum number of concurrent conversations; None means no limit."""
    request_rate: float = math.inf
    """Conversations per second; infinity: all arrive at the start."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the gaps. 1 is a Poisson process, less is burstier, infinity is regular."""


def arrival_times_s(pace: Pace, count: int, seed: int) -> list[float]:
    """The arrival time of each of `count` conversations, in seconds from the start.

    As in `vllm bench serve`, the gaps are scaled so that the last conversation arrives at count / rate. The offered
    rate therefore does not depend on the seed."""
    if math.isinf(pace.request_rate) or not count:
        return [0.0] * count
    if math.isinf(pace.burstiness):
        return [(index + 1) / pace.request_rate for index in range(count)]
    scale = 1 / (pace.request_rate * pace.burstiness)
    times = np.cumsum(np.random.default_rng(seed).gamma(pace.burstiness, scale, count))
    return [float(time) for time in times * (count / pace.request_rate / times[-1])]
