"""Checks that the time of a function is linear in the size of its input."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

GROWTH = 16
"""How much larger the large input is. Linear time is 16 times as long, quadratic 256 times."""

MAX_RATIO = 64
"""The geometric mean of both: other load on the machine may disturb the measurement fourfold either way."""

REPEATS = 5


def assert_linear(run: Callable[[T], object], shape: Callable[[int], T], size: int) -> None:
    """`shape(size)` makes an input of `size` units. The time is CPU time of this thread, the shortest of some runs."""
    small, large = shape(size), shape(GROWTH * size)
    ratio = cpu_s(run, large) / cpu_s(run, small)
    assert ratio < MAX_RATIO, f"{GROWTH} times the input takes {ratio:.0f} times as long"


def cpu_s(run: Callable[[T], object], value: T) -> float:
    """CPU time of `run(value)` in seconds, the shortest of REPEATS."""
    times: list[float] = []
    for _ in range(REPEATS):
        begun_s = time.thread_time()
        run(value)
        times.append(time.thread_time() - begun_s)
    return min(times)
