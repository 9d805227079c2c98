"""A histogram that costs little to fill: its values come many at a time."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence


class Histogram:
    """How many values are at most each bound."""

    __slots__ = ("_at_most", "bounds", "count", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: ascending, without the infinite one."""
        self.bounds = bounds
        self.count = 0
        self.sum = 0.0
        self._at_most = [0] * len(bounds)

    def add(self, values: Sequence[float]) -> None:
        """Count `values`. Sorted first, which is cheaper than to look for the bucket of each."""
        ordered = sorted(values)
        at_most = self._at_most
        for index, bound in enumerate(self.bounds):
            at_most[index] += bisect_right(ordered, bound)
        self.count += len(ordered)
        self.sum += sum(ordered)

    def merge(self, other: "Histogram") -> None:
        """Count the values of `other`, which has the same bounds, here too."""
        self._at_most = [mine + its for mine, its in zip(self._at_most, other._at_most, strict=True)]
        self.count += other.count
        self.sum += other.sum

    def cumulative(self) -> list[tuple[str, float]]:
        """The form that `prometheus_client` takes."""
        at_most = zip(self.bounds, self._at_most, strict=True)
        return [*((f"{bound:g}", float(count)) for bound, count in at_most), ("+Inf", self.count)]

    @classmethod
    def total(cls, histograms: "Iterable[Histogram]") -> "Histogram":
        """All of `histograms` in one; they have the same bounds, and there is at least one."""
        first, *others = histograms
        total = cls(first.bounds)
        for each in (first, *others):
            total.merge(each)
        return total
