"""What a run is judged by, and how sure that is over many seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import sqrt
from statistics import mean, stdev

import numpy as np
from benchmark.student_t import student_t_95

from simulator.experiment.record import Outcome, Record
from simulator.workload.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one run. Requests count that arrived after the warm-up; times are of those that were served."""

    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    tpot_p99_s: float
    e2e_p50_s: float
    e2e_p90_s: float
    e2e_p99_s: float
    tokens_per_s: float
    """Generated, of answers that ended between warm-up and the last arrival."""
    goodput_per_s: float
    """Answers within the scenario's SLO."""
    hit_ratio: float
    """Prompt tokens found in a prefix cache."""
    kv_spread: float
    """Highest less lowest KV cache usage of the replicas, on average."""
    preemptions: float
    shed: float
    """Share of the requests."""
    failed: float
    """Share of the requests."""


MEASURES = tuple(field.name for field in fields(Measures))
LOWER_IS_BETTER = frozenset(
    {name for name in MEASURES if name.endswith("_s") and not name.endswith("per_s")}
    | {"kv_spread", "preemptions", "shed", "failed"}
)


def measure(records: Sequence[Record], kv_spreads: Sequence[float], scenario: Scenario) -> Measures:
    """The measures of a run's records."""
    counted = [each for each in records if scenario.warmup_s <= each.arrived_s < scenario.duration_s]
    served = [each for each in counted if each.outcome is Outcome.SERVED]
    window_s = scenario.duration_s - scenario.warmup_s
    slo = scenario.slo
    good = sum(each.ttft_s <= slo.ttft_s and (each.tpot_s or 0.0) <= slo.tpot_s for each in served)
    ended = [
        each
        for each in records
        if each.outcome is Outcome.SERVED and scenario.warmup_s <= each.end_s < scenario.duration_s
    ]
    ttft = _quantiles(each.ttft_s for each in served)
    tpot = _quantiles(each.tpot_s for each in served if each.tpot_s is not None)
    e2e = _quantiles(each.e2e_s for each in served)
    return Measures(
        *ttft,
        *tpot,
        *e2e,
        tokens_per_s=sum(each.output_tokens for each in ended) / window_s,
        goodput_per_s=good / window_s,
        hit_ratio=sum(each.cached_tokens for each in served) / max(1, sum(each.prompt_tokens for each in served)),
        kv_spread=mean(kv_spreads) if kv_spreads else 0.0,
        preemptions=float(sum(each.preemptions for each in served)),
        shed=_share(counted, Outcome.SHED),
        failed=_share(counted, Outcome.FAILED),
    )


def _quantiles(values: Iterable[float]) -> tuple[float, float, float]:
    """p50, p90 and p99; zeros where there is nothing."""
    listed = list(values)
    if not listed:
        return 0.0, 0.0, 0.0
    p50, p90, p99 = np.quantile(np.array(listed), (0.5, 0.9, 0.99))
    return float(p50), float(p90), float(p99)


def _share(records: Sequence[Record], outcome: Outcome) -> float:
    return sum(each.outcome is outcome for each in records) / len(records) if records else 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, and half the width of its 95 % interval."""

    mean: float
    half_width: float


def estimate(values: Sequence[float]) -> Estimate:
    """Of at least one value; the interval of one is unknown, and 0 here."""
    if len(values) < 2:
        return Estimate(values[0], 0.0)
    return Estimate(mean(values), student_t_95(len(values) - 1) * stdev(values) / sqrt(len(values)))
