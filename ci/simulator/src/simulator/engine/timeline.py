"""Virtual time: what happens next."""

import heapq
from collections.abc import Callable


class Timeline:
    """Calls what was put on it, in the order of time; what is at the same time in the order of its being put there."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopped = False

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        """Call at `at_s`, which must not be past."""
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, call)

    def run(self) -> None:
        """Until nothing is left, or `stop` is called."""
        heap, pop = self._heap, heapq.heappop
        while heap and not self._stopped:
            self.now_s, _, call = pop(heap)
            call()

    def stop(self) -> None:
        """What has been put here and has not come does not come any more."""
        self._stopped = True
