"""The measures of a run, and their means with confidence intervals over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from statistics import mean

import numpy as np
from benchmark.student_t import half_width_95

from simulator.experiment.record import Outcome, Record
from simulator.workload.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of one run, over the requests that arrived after the warm-up. Times are of served requests."""

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
    """Generated tokens per second, of requests that ended between the warm-up and the last arrival."""
    goodput_per_s: float
    """Requests per second within the scenario's SLO."""
    hit_ratio: float
    """Share of the prompt tokens found in a prefix cache."""
    ttft_error: float
    """Median of the absolute error of the predicted TTFT, as a share of the TTFT. 0 without predictions."""
    kv_spread: float
    """Mean difference between the highest and the lowest KV cache usage of the replicas."""
    preemptions: float
    """Number of preemptions."""
    shed: float
    """Share of the requests that were shed."""
    failed: float
    """Share of the requests that failed."""
    scrapes_per_s: float
    """Pages of metrics per second that one server answers, for all pickers together."""


MEASURES = tuple(field.name for field in fields(Measures))
LOWER_IS_BETTER = frozenset(
    {name for name in MEASURES if name.endswith("_s") and not name.endswith("per_s")}
    | {"kv_spread", "preemptions", "shed", "failed", "ttft_error"}
)


def measure(
    records: Sequence[Record], kv_spreads: Sequence[float], scrapes_per_s: float, scenario: Scenario
) -> Measures:
    """Computes the measures of a run from its records."""
    counted = [record for record in records if scenario.warmup_s <= record.arrived_s < scenario.duration_s]
    served = [record for record in counted if record.outcome is Outcome.SERVED]
    window_s = scenario.duration_s - scenario.warmup_s
    slo = scenario.slo
    good = sum(record.ttft_s <= slo.ttft_s and (record.tpot_s or 0.0) <= slo.tpot_s for record in served)
    ended = [
        record
        for record in records
        if record.outcome is Outcome.SERVED and scenario.warmup_s <= record.end_s < scenario.duration_s
    ]
    ttft = _quantiles(record.ttft_s for record in served)
    tpot = _quantiles(record.tpot_s for record in served if record.tpot_s is not None)
    e2e = _quantiles(record.e2e_s for record in served)
    prompt_tokens = sum(record.prompt_tokens for record in served)
    return Measures(
        *ttft,
        *tpot,
        *e2e,
        tokens_per_s=sum(record.output_tokens for record in ended) / window_s,
        goodput_per_s=good / window_s,
        hit_ratio=sum(record.cached_tokens for record in served) / max(1, prompt_tokens),
        ttft_error=_quantiles(
            abs(record.predicted_ttft_s / record.ttft_s - 1.0)
            for record in served
            if record.predicted_ttft_s is not None
        )[0],
        kv_spread=mean(kv_spreads) if kv_spreads else 0.0,
        preemptions=float(sum(record.preemptions for record in served)),
        shed=_share(counted, Outcome.SHED),
        failed=_share(counted, Outcome.FAILED),
        scrapes_per_s=scrapes_per_s,
    )


def _quantiles(values: Iterable[float]) -> tuple[float, float, float]:
    """p50, p90 and p99; zeros if there are no values."""
    listed = list(values)
    if not listed:
        return 0.0, 0.0, 0.0
    p50, p90, p99 = np.quantile(np.array(listed), (0.5, 0.9, 0.99))
    return float(p50), float(p90), float(p99)


def _share(records: Sequence[Record], outcome: Outcome) -> float:
    return sum(record.outcome is outcome for record in records) / len(records) if records else 0.0


def values_of(measures: Sequence[Measures], measure: str) -> list[float]:
    """The values of one measure, seed by seed."""
    return [getattr(run, measure) for run in measures]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, and half the width of its 95 % interval (Student's t)."""

    mean: float
    half_width: float


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one or more values. The interval of a single value is unknown, and given as 0."""
    if len(values) < 2:
        return Estimate(values[0], 0.0)
    return Estimate(mean(values), half_width_95(values))
