"""Whether two contenders differ by more than the rounds do among themselves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

from benchmark.compare.rounds import Comparison, Leg
from benchmark.student_t import student_t_95


class Better(StrEnum):
    """Which direction of a figure is the good one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that each leg has."""

    name: str
    unit: str
    better: Better
    of: Callable[[Leg], float]
    """NaN where a leg does not have it."""
    whole: bool = False
    """Whether it counts things."""


FAILED_REQUESTS = "Failed requests"
FIGURES = (
    Figure("Request throughput", "req/s", Better.HIGHER, lambda leg: leg.summary.request_throughput),
    Figure("Output throughput", "tok/s", Better.HIGHER, lambda leg: leg.summary.output_throughput),
    Figure("TTFT p50", "ms", Better.LOWER, lambda leg: leg.summary.ttft.percentiles_ms[50.0]),
    Figure("TTFT p90", "ms", Better.LOWER, lambda leg: leg.summary.ttft.percentiles_ms[90.0]),
    Figure("TTFT p99", "ms", Better.LOWER, lambda leg: leg.summary.ttft.percentiles_ms[99.0]),
    Figure("TPOT p50", "ms", Better.LOWER, lambda leg: leg.summary.tpot.percentiles_ms[50.0]),
    Figure("TPOT p90", "ms", Better.LOWER, lambda leg: leg.summary.tpot.percentiles_ms[90.0]),
    Figure("TPOT p99", "ms", Better.LOWER, lambda leg: leg.summary.tpot.percentiles_ms[99.0]),
    Figure("KV cache spread (std)", "%", Better.LOWER, lambda leg: 100 * leg.kv_spread.deviation),
    Figure("KV cache spread (max-min)", "%", Better.LOWER, lambda leg: 100 * leg.kv_spread.gap),
    Figure("Prefix cache hits", "%", Better.HIGHER, lambda leg: 100 * leg.prefix_hit_rate),
    Figure(FAILED_REQUESTS, "", Better.LOWER, lambda leg: float(leg.summary.failed), whole=True),
)
FIGURES_BY_NAME = {figure.name: figure for figure in FIGURES}


class Conclusion(StrEnum):
    """What may be said of a figure."""

    BETTER = "better"
    WORSE = "worse"
    WITHIN_NOISE = "within noise"
    """The interval holds 1: the rounds differ among themselves by more than the contenders do."""
    TOO_FEW_ROUNDS = "too few rounds"
    """One round shows no noise, so it shows no difference."""
    NO_RATIO = ""
    """A figure is 0 or absent."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A contender's figure over the first contender's: the geometric mean of the rounds' ratios, and its 95 % interval.
    NaN where there is none."""

    mean: float
    low: float
    high: float
    conclusion: Conclusion


def ratio_of(base: Sequence[float], other: Sequence[float], better: Better) -> Ratio:
    """Judge a figure, round by round. The ratio of a round is free of what its seed and its hour did to both."""
    none = Ratio(math.nan, math.nan, math.nan, Conclusion.NO_RATIO)
    if not base or any(not value > 0 for value in (*base, *other)):
        return none
    logs = [math.log(after / before) for before, after in zip(base, other, strict=True)]
    mean = fmean(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), math.nan, math.nan, Conclusion.TOO_FEW_ROUNDS)
    half = student_t_95(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
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
    """Over the rounds, in the order of the contenders; NaN for one that has none."""
    ratios: tuple[Ratio, ...]
    """Of the contenders after the first."""


def judge(comparison: Comparison) -> tuple[Row, ...]:
    """A row for each figure that any contender has."""
    rows: list[Row] = []
    for figure in FIGURES:
        values = [
            [figure.of(leg) for leg in comparison.legs_of(index)] for index in range(len(comparison.plan.contenders))
        ]
        means = tuple(fmean(each) for each in values)
        if not all(math.isnan(mean) for mean in means):
            rows.append(Row(figure, means, tuple(ratio_of(values[0], each, figure.better) for each in values[1:])))
    return tuple(rows)
