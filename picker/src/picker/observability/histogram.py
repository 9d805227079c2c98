"""A histogram that adds many values at a time, which costs less than adding each."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence


class Histogram:
    """Counts values by the bounds that they do not exceed."""

    __slots__ = ("_at_most", "bounds", "count", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: ascending, without infinity."""
        self.bounds = bounds
        self.count = 0
        self.sum = 0.0
        self._at_most = [0] * len(bounds)

    def add(self, values: Sequence[float]) -> None:
        """Counts `values`. Sorting them first costs less than a search for the bucket of each."""
        ordered = sorted(values)
        at_most = self._at_most
        for index, bound in enumerate(self.bounds):
            at_most[index] += bisect_right(ordered, bound)
        self.count += len(ordered)
        self.sum += sum(ordered)

    def merge(self, other: "Histogram") -> None:
        """Adds the values of `other`, which must have the same bounds."""
        self._at_most = [own + added for own, added in zip(self._at_most, other._at_most, strict=True)]
        self.count += other.count
        self.sum += other.sum

    def cumulative(self) -> list[tuple[str, float]]:
        """Returns the cumulative buckets by their `le` label, as `prometheus_client` expects them."""
        at_most = zip(self.bounds, self._at_most, strict=True)
        return [*((f"{bound:g}", float(count)) for bound, count in at_most), ("+Inf", self.count)]

    @classmethod
    def total(cls, histograms: "Iterable[Histogram]") -> "Histogram":
        """Adds up `histograms`. There must be at least one, and all must have the same bounds."""
        first, *others = histograms
        total = cls(first.bounds)
        for histogram in (first, *others):
            total.merge(histogram)
        return total
