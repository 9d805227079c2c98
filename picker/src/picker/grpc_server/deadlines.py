"""Deadlines of many calls, kept in a dictionary of ticks rather than as a timer each.

Setting and clearing a deadline costs well under a microsecond. Nothing of a call is kept once its deadline is
cleared."""

from typing import Generic, Protocol, TypeVar

TICK_S = 0.1
"""Upper bound on how late a deadline is noticed. The shortest deadlines are seconds long."""


class Timed(Protocol):
    """An object that may have a deadline; it must hash by identity."""

    tick: int
    """Written only by `Deadlines`; 0 without a deadline."""


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """Deadlines by object. Times are those of any one monotonic clock that is past 0."""

    def __init__(self) -> None:
        self._ticks: dict[int, dict[T, None]] = {}

    def set(self, timed: T, at_s: float) -> None:
        """Sets or replaces the deadline of `timed`."""
        tick = int(at_s / TICK_S) + 1
        if timed.tick == tick:
            return
        self.clear(timed)
        timed.tick = tick
        waiting = self._ticks.get(tick)
        if waiting is None:
            self._ticks[tick] = {timed: None}
        else:
            waiting[timed] = None

    def clear(self, timed: T) -> None:
        if timed.tick:
            waiting = self._ticks[timed.tick]
            del waiting[timed]
            if not waiting:
                del self._ticks[timed.tick]
            timed.tick = 0

    def pop_due(self, now_s: float) -> list[T]:
        """Removes and returns the objects whose deadline has passed."""
        now_tick = int(now_s / TICK_S)
        due: list[T] = []
        for tick in sorted(tick for tick in self._ticks if tick <= now_tick):
            due += self._ticks.pop(tick)
        for timed in due:
            timed.tick = 0
        return due

    def __len__(self) -> int:
        return sum(map(len, self._ticks.values()))
