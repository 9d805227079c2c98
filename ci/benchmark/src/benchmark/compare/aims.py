"""What a comparison is meant to show: bounds of its ratios, and whether they hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmark.compare.rounds import Comparison
from benchmark.compare.table import ratio_cells
from benchmark.compare.verdict import Conclusion, Figure, Ratio, judge


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound of each contender's ratio to the first."""

    figure: Figure
    bound: float
    at_most: bool
    """Whether the ratio shall be the bound or less; else the bound or more."""

    def outcome(self, ratio: Ratio | None) -> "Outcome":
        """`ratio`: None where no contender has the figure."""
        if ratio is None or ratio.conclusion is Conclusion.NO_RATIO:
            return Outcome.UNKNOWN
        if ratio.conclusion is Conclusion.TOO_FEW_ROUNDS:
            return Outcome.OPEN
        nearest, mean = (ratio.low, ratio.mean) if self.at_most else (-ratio.high, -ratio.mean)
        bound = self.bound if self.at_most else -self.bound
        return Outcome.MET if mean <= bound else Outcome.OPEN if nearest <= bound else Outcome.MISSED


class Outcome(StrEnum):
    """Of an aim."""

    MET = "met"
    """By the mean of the rounds."""
    OPEN = "open, for the noise between rounds is larger"
    """The mean misses the bound, but the interval reaches it; or there is one round, which shows no noise."""
    MISSED = "missed"
    UNKNOWN = "missed, for there is no such ratio"
    """A figure is 0, or absent: no replica was watched."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An aim, and what became of it."""

    sentence: str
    outcome: Outcome

    @property
    def missed(self) -> bool:
        return self.outcome in (Outcome.MISSED, Outcome.UNKNOWN)


def judge_aims(comparison: Comparison, aims: Sequence[Aim]) -> Iterator[Judged]:
    """Each aim for each contender after the first."""
    first, *others = comparison.plan.contenders
    ratios = {row.figure.name: row.ratios for row in judge(comparison)}
    for aim in aims:
        of_figure = ratios.get(aim.figure.name)
        for index, contender in enumerate(others):
            ratio = of_figure[index] if of_figure else None
            outcome = aim.outcome(ratio)
            mean, interval = ratio_cells(ratio) if ratio else ("-", "-")
            yield Judged(
                f"{aim.figure.name}, {contender.name} / {first.name}: {'at most' if aim.at_most else 'at least'} "
                f"{aim.bound:g} is wanted, found is {mean} ({interval}): {outcome}",
                outcome,
            )
