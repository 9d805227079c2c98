"""Thresholds (`--aim`) for the ratios of a comparison, and their outcome."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmark.compare.rounds import Comparison
from benchmark.compare.table import ratio_cells
from benchmark.compare.verdict import Conclusion, Figure, Ratio, judge


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound for each contender's ratio to the first."""

    figure: Figure
    bound: float
    at_most: bool
    """True: the ratio must not exceed the bound. False: it must reach the bound."""

    def outcome(self, ratio: Ratio | None) -> "Outcome":
        """Judges a ratio; None means that no contender has the figure."""
        if ratio is None or ratio.conclusion is Conclusion.NO_RATIO:
            return Outcome.UNKNOWN
        if ratio.conclusion is Conclusion.TOO_FEW_ROUNDS:
            return Outcome.OPEN
        nearest, mean = (ratio.low, ratio.mean) if self.at_most else (-ratio.high, -ratio.mean)
        bound = self.bound if self.at_most else -self.bound
        return Outcome.MET if mean <= bound else Outcome.OPEN if nearest <= bound else Outcome.MISSED


class Outcome(StrEnum):
    """The outcome of a threshold."""

    MET = "met"
    """The mean of the rounds is within the bound."""
    OPEN = "open, the noise between rounds is larger"
    """The mean misses the bound, but the interval reaches it; or there is only one round, which shows no noise."""
    MISSED = "missed"
    UNKNOWN = "missed, there is no such ratio"
    """A figure is 0 or absent, for example because no replica was watched."""


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """The outcome of a threshold for one contender, with a sentence for the report."""

    sentence: str
    outcome: Outcome

    @property
    def missed(self) -> bool:
        return self.outcome in (Outcome.MISSED, Outcome.UNKNOWN)


def judge_thresholds(comparison: Comparison, thresholds: Sequence[Threshold]) -> Iterator[ThresholdResult]:
    """Judges each threshold for each contender after the first."""
    first, *others = comparison.plan.contenders
    ratios = {row.figure.name: row.ratios for row in judge(comparison)}
    for threshold in thresholds:
        of_figure = ratios.get(threshold.figure.name)
        for index, contender in enumerate(others):
            ratio = of_figure[index] if of_figure else None
            outcome = threshold.outcome(ratio)
            mean, interval = ratio_cells(ratio) if ratio else ("-", "-")
            yield ThresholdResult(
                f"{threshold.figure.name}, {contender.name} / {first.name}: "
                f"{'at most' if threshold.at_most else 'at least'} {threshold.bound:g} is required, "
                f"found {mean} ({interval}): {outcome}",
                outcome,
            )
