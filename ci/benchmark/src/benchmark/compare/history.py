"""Whether a comparison is worse than the good ones before it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmark.compare.record import FigureRecord, Record
from benchmark.compare.verdict import Better
from benchmark.student_t import student_t_95

MOST_RUNS = 10
"""Older ones are left out: what a fleet did a month of nights ago is no measure."""
FEWEST_RUNS = 3
"""Fewer do not show what is usual."""
TOLERANCE = 1.05
"""A figure less than 5 % off the mean is no regression, however alike the runs before were."""


def comparable(record: Record, history: Sequence[Record]) -> Sequence[Record]:
    """The last good runs of the same load on the same contenders."""
    return [past for past in history if past.good and past.kind == record.kind][-MOST_RUNS:]


@dataclass(frozen=True, slots=True)
class Beside:
    """A figure of a contender beside the same of the runs before."""

    contender: str
    figure: FigureRecord
    runs: int
    """Those that have it; at least one."""
    mean: float
    """Theirs."""
    usual: tuple[float, float] | None
    """Where a further run like them would lie in 95 of 100 cases; None where they are too few to say, or have a 0."""

    @property
    def worse(self) -> bool:
        """Than what is usual. A value of 0 never is."""
        if self.usual is None or not self.figure.mean > 0:
            return False
        low, high = self.usual
        return self.figure.mean < low if self.figure.better is Better.HIGHER else self.figure.mean > high


def beside(record: Record, past: Sequence[Record]) -> Iterator[Beside]:
    """Each figure that earlier runs have, too. `past`: comparable ones."""
    for index, contender in enumerate(record.contenders):
        for figure in contender.figures:
            before = [old.mean for run in past for old in run.contenders[index].figures if old.name == figure.name]
            if before:
                yield Beside(contender.name, figure, len(before), fmean(before), _usual(before))


def regressions(record: Record, past: Sequence[Record]) -> Iterator[str]:
    """A sentence for each figure that is worse than usual."""
    for each in beside(record, past):
        if each.usual is not None and each.worse:
            low, high = each.usual
            unit = each.figure.unit and f" {each.figure.unit}"
            yield (
                f"{each.contender}: {each.figure.name} {each.figure.mean:,.4g}{unit}, "
                f"usual in the last {each.runs} good runs is {low:,.4g} to {high:,.4g}"
            )


def judged_by(past: Sequence[Record]) -> str:
    """A sentence on what a run without regressions was judged by."""
    if len(past) >= FEWEST_RUNS:
        return f"Nothing is worse than in the last {len(past)} good runs."
    runs = {0: "no good run", 1: "1 good run"}.get(len(past), f"{len(past)} good runs")
    return f"Not judged by the history: it holds {runs} of this load, and {FEWEST_RUNS} show what is usual."


def _usual(values: Sequence[float]) -> tuple[float, float] | None:
    """Where a further value would lie in 95 of 100 cases (a prediction interval of the logarithms), and at least the
    tolerance to both sides of the mean."""
    if len(values) < FEWEST_RUNS or any(not value > 0 for value in values):
        return None
    logs = [math.log(value) for value in values]
    half = student_t_95(len(logs) - 1) * stdev(logs) * math.sqrt(1 + 1 / len(logs))
    half = max(half, math.log(TOLERANCE))
    mean = fmean(logs)
    return math.exp(mean - half), math.exp(mean + half)
