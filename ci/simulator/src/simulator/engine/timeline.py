"""Virtual time: a queue of calls."""

import heapq
from collections.abc import Callable


class Timeline:
    """Makes calls in order of their times. Calls of equal times are made in the order in which they were added."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopped = False

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        """Make `call` at `at_s`, which must not be in the past."""
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Make `call` after `delay_s`."""
        self.at(self.now_s + delay_s, call)

    def run(self) -> None:
        """Make all calls, until none is left or `stop` is called."""
        heap, pop = self._heap, heapq.heappop
        while heap and not self._stopped:
            self.now_s, _, call = pop(heap)
            call()

    def stop(self) -> None:
        """Make no further calls."""
        self._stopped = True
