"""Virtual time: what happens next."""

import heapq
from collections.abc import Callable


class Timeline:
    """Calls what was put on it, in the order of time; what is at the same time in the order of its being put there."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        """Call at `at_s`, which must not be past."""
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, call)

    def run(self, busy: Callable[[], bool]) -> None:
        """Until nothing is left, or `busy` says no."""
        heap = self._heap
        while heap and busy():
            self.now_s, _, call = heapq.heappop(heap)
            call()
