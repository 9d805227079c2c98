"""Whether a comparison is worse than the good ones before it."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from benchmark.compare.record import Record
from benchmark.compare.verdict import Better, student_t_95

MOST_RUNS = 10
"""Older ones are left out: what a fleet did a month of nights ago is no measure."""
FEWEST_RUNS = 3
"""Fewer do not show what is usual."""
TOLERANCE = 1.05
"""A figure less than 5 % off the mean is no regression, however alike the runs before were."""


def comparable(record: Record, history: Sequence[Record]) -> Sequence[Record]:
    """The last good runs of the same load on the same contenders."""
    return [past for past in history if past.good and past.kind == record.kind][-MOST_RUNS:]


def regressions(record: Record, past: Sequence[Record]) -> Iterator[str]:
    """A sentence for each figure that is worse than where a further run like those of `past` would lie, in 95 of 100
    cases. Figures with a value of 0 are passed over."""
    for index, contender in enumerate(record.contenders):
        for figure in contender.figures:
            before = [old.mean for run in past for old in run.contenders[index].figures if old.name == figure.name]
            usual = _usual(before)
            if usual is None or not figure.mean > 0:
                continue
            low, high = usual
            worse = figure.mean < low if figure.better is Better.HIGHER else figure.mean > high
            if worse:
                yield (
                    f"{contender.name}: {figure.name} {figure.mean:,.4g} {figure.unit}, "
                    f"usual in the last {len(before)} good runs is {low:,.4g} to {high:,.4g}"
                )


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
