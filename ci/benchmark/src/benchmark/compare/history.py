"""Judges a comparison by the earlier good comparisons of a history file."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmark.compare.record import FigureRecord, Record
from benchmark.compare.verdict import Better
from benchmark.student_t import student_t_95

MOST_RUNS = 10
"""Older records are ignored. Judgement: a fleet of a month ago is no baseline."""
FEWEST_RUNS = 3
"""Fewer do not show the usual range. Judgement."""
TOLERANCE = 1.05
"""A figure less than 5 % off the mean is no regression, however similar the earlier runs are. Judgement."""


def comparable(record: Record, history: Sequence[Record]) -> Sequence[Record]:
    """The last good records of the same load and the same contenders, at most `MOST_RUNS`."""
    return [past for past in history if past.good and past.kind == record.kind][-MOST_RUNS:]


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """A contender's figure compared with the same figure in earlier runs."""

    contender: str
    figure: FigureRecord
    runs: int
    """Earlier runs that have the figure; at least one."""
    mean: float
    """Mean of the earlier runs."""
    usual: tuple[float, float] | None
    """95 % prediction interval for a further run; None if the earlier runs are too few or have a 0."""

    @property
    def worse(self) -> bool:
        """Whether the figure is worse than the usual range. A value of 0 never is."""
        if self.usual is None or not self.figure.mean > 0:
            return False
        low, high = self.usual
        return self.figure.mean < low if self.figure.better is Better.HIGHER else self.figure.mean > high


def compare_with_baseline(record: Record, past: Sequence[Record]) -> Iterator[BaselineComparison]:
    """Compares each figure that the earlier runs `past` have, too. `past` must be comparable."""
    for index, contender in enumerate(record.contenders):
        for figure in contender.figures:
            before = [old.mean for run in past for old in run.contenders[index].figures if old.name == figure.name]
            if before:
                yield BaselineComparison(contender.name, figure, len(before), fmean(before), _usual(before))


def regressions(record: Record, past: Sequence[Record]) -> Iterator[str]:
    """A sentence for each figure that is worse than usual."""
    for compared in compare_with_baseline(record, past):
        if compared.usual is not None and compared.worse:
            low, high = compared.usual
            figure = compared.figure
            unit = figure.unit and f" {figure.unit}"
            yield (
                f"{compared.contender}: {figure.name} {figure.mean:,.4g}{unit}, "
                f"usual in the last {compared.runs} good runs is {low:,.4g} to {high:,.4g}"
            )


def baseline_sentence(past: Sequence[Record]) -> str:
    """A sentence for a run without regressions: which earlier runs it was judged by."""
    if len(past) >= FEWEST_RUNS:
        return f"Nothing is worse than in the last {len(past)} good runs."
    runs = {0: "no good run", 1: "1 good run"}.get(len(past), f"{len(past)} good runs")
    return f"Not judged by the history: it holds {runs} of this load, and {FEWEST_RUNS} are needed."


def _usual(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % prediction interval for a further value, from the logarithms, and at least `TOLERANCE` around the
    geometric mean. None for fewer than `FEWEST_RUNS` values, or if one is not above 0."""
    if len(values) < FEWEST_RUNS or any(not value > 0 for value in values):
        return None
    logs = [math.log(value) for value in values]
    half = student_t_95(len(logs) - 1) * stdev(logs) * math.sqrt(1 + 1 / len(logs))
    half = max(half, math.log(TOLERANCE))
    mean = fmean(logs)
    return math.exp(mean - half), math.exp(mean + half)
