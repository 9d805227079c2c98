"""Judges whether two contenders differ by more than the noise between rounds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from benchmark.compare.rounds import Comparison, Run
from benchmark.student_t import half_width_95


class Better(StrEnum):
    """The direction in which a figure improves."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number computed from each run."""

    name: str
    unit: str
    better: Better
    of: Callable[[Run], float]
    """The value; NaN if a run does not have it."""
    whole: bool = False
    """Whether the figure is a count."""


FAILED_REQUESTS = "Failed requests"
FIGURES = (
    Figure("Request throughput", "req/s", Better.HIGHER, lambda run: run.summary.request_throughput),
    Figure("Output throughput", "tok/s", Better.HIGHER, lambda run: run.summary.output_throughput),
    Figure("TTFT p50", "ms", Better.LOWER, lambda run: run.summary.ttft.percentiles_ms[50.0]),
    Figure("TTFT p90", "ms", Better.LOWER, lambda run: run.summary.ttft.percentiles_ms[90.0]),
    Figure("TTFT p99", "ms", Better.LOWER, lambda run: run.summary.ttft.percentiles_ms[99.0]),
    Figure("TPOT p50", "ms", Better.LOWER, lambda run: run.summary.tpot.percentiles_ms[50.0]),
    Figure("TPOT p90", "ms", Better.LOWER, lambda run: run.summary.tpot.percentiles_ms[90.0]),
    Figure("TPOT p99", "ms", Better.LOWER, lambda run: run.summary.tpot.percentiles_ms[99.0]),
    Figure("KV cache spread (std)", "%", Better.LOWER, lambda run: 100 * run.kv_spread.deviation),
    Figure("KV cache spread (max-min)", "%", Better.LOWER, lambda run: 100 * run.kv_spread.gap),
    Figure("Prefix cache hits", "%", Better.HIGHER, lambda run: 100 * run.prefix_hit_rate),
    Figure(FAILED_REQUESTS, "", Better.LOWER, lambda run: float(run.summary.failed), whole=True),
)
FIGURES_BY_NAME = {figure.name: figure for figure in FIGURES}


class Conclusion(StrEnum):
    """The conclusion about a figure."""

    BETTER = "better"
    WORSE = "worse"
    WITHIN_NOISE = "within noise"
    """The interval contains 1: the rounds differ by more than the contenders do."""
    TOO_FEW_ROUNDS = "too few rounds"
    """One round does not show the noise, so no difference can be concluded."""
    NO_RATIO = ""
    """A figure is 0 or absent."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A contender's figure divided by the first contender's: the geometric mean of the rounds' ratios, and its 95 %
    interval (Student's t, of the logarithms). NaN means that there is none."""

    mean: float
    low: float
    high: float
    conclusion: Conclusion


def ratio_of(base: Sequence[float], other: Sequence[float], better: Better) -> Ratio:
    """Judges a figure from its values in each round. The ratio within a round cancels effects of the seed and of the
    time of day, which change both values."""
    none = Ratio(math.nan, math.nan, math.nan, Conclusion.NO_RATIO)
    if not base or any(not value > 0 for value in (*base, *other)):
        return none
    logs = [math.log(after / before) for before, after in zip(base, other, strict=True)]
    mean = fmean(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), math.nan, math.nan, Conclusion.TOO_FEW_ROUNDS)
    half = half_width_95(logs)
    if abs(mean) <= half:
        conclusion = Conclusion.WITHIN_NOISE
    else:
        conclusion = Conclusion.BETTER if (mean > 0) == (better is Better.HIGHER) else Conclusion.WORSE
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), conclusion)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of all contenders."""

    figure: Figure
    means: tuple[float, ...]
    """Means over the rounds, in the order of the contenders; NaN if a contender does not have the figure."""
    ratios: tuple[Ratio, ...]
    """Ratios of the contenders after the first."""


def judge(comparison: Comparison) -> tuple[Row, ...]:
    """A row for each figure that at least one contender has."""
    rows: list[Row] = []
    for figure in FIGURES:
        values = [
            [figure.of(run) for run in comparison.runs_of(index)] for index in range(len(comparison.plan.contenders))
        ]
        means = tuple(map(fmean, values))
        if not all(math.isnan(mean) for mean in means):
            base, *others = values
            rows.append(Row(figure, means, tuple(ratio_of(base, other, figure.better) for other in others)))
    return tuple(rows)
