"""The schedulers by name: the picker's strategies, those of other projects, one with perfect information, and DEFAULT
with other weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from random import Random

from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.requestcontrol.in_flight_request import Schedules
from picker.resources.inference import RoutingStrategy
from picker.scheduling.cost import DEFAULT, CostWeights, PredictedCost
from picker.scheduling.scheduler import Scheduler

from simulator.schedulers.peers import (
    BoundedHashing,
    FilterTree,
    TwoChoices,
    TwoChoicesOfTokens,
    WeightedScorers,
)
from simulator.schedulers.perfect_information import GroundTruth, PerfectInformation

UPSTREAM_SCRAPE_S = 0.05
"""The scrape interval of the inference extension. A longer one would be a disadvantage for its schedulers."""


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """A scheduler with the metrics that it needs."""

    name: str
    make: Callable[[PrefixIndex, Random, GroundTruth], Schedules]
    uses_counters: bool = False
    """Whether it evaluates the counters of every scrape. The scenario sets the interval."""
    polls_every_s: float | None = None
    """Scrape interval of a scheduler that uses only the gauges of the newest scrape; None if it uses none."""


def picker_strategy(strategy: RoutingStrategy) -> SchedulerSpec:
    """The picker's scheduler with one of its strategies."""
    return SchedulerSpec(
        strategy.value, lambda prefixes, rng, _: Scheduler(strategy, prefixes, rng), uses_counters=True
    )


LEAST_REQUEST = "least-request"
WEIGHTED_SCORERS = "weighted-scorers"
PERFECT_INFORMATION = "perfect-information"
"""Name of the scheduler with perfect information."""

SCHEDULERS: Mapping[str, SchedulerSpec] = {
    spec.name: spec
    for spec in (
        SchedulerSpec("random", lambda prefixes, rng, _: Scheduler(RoutingStrategy.RANDOM, prefixes, rng)),
        SchedulerSpec("round-robin", lambda prefixes, rng, _: Scheduler(RoutingStrategy.ROUND_ROBIN, prefixes, rng)),
        SchedulerSpec(LEAST_REQUEST, lambda _prefixes, rng, _: TwoChoices(rng)),
        SchedulerSpec("two-choices-tokens", lambda _prefixes, rng, _: TwoChoicesOfTokens(rng), uses_counters=True),
        SchedulerSpec("filter-tree", lambda _prefixes, rng, _: FilterTree(rng), polls_every_s=UPSTREAM_SCRAPE_S),
        SchedulerSpec(
            WEIGHTED_SCORERS,
            lambda prefixes, rng, _: WeightedScorers(rng, prefixes),
            polls_every_s=UPSTREAM_SCRAPE_S,
        ),
        SchedulerSpec("bounded-hashing", lambda _prefixes, _rng, _: BoundedHashing()),
        picker_strategy(RoutingStrategy.DEFAULT),
        picker_strategy(RoutingStrategy.PREFIX_CACHE),
        SchedulerSpec(
            PERFECT_INFORMATION, lambda _prefixes, rng, truth: PerfectInformation(truth, rng), uses_counters=True
        ),
    )
}

FACTORS = (0.5, 2.0)
"""Of a weight, in WEIGHT_VARIANTS."""

WEIGHTS = tuple(field.name for field in fields(CostWeights))


class _Reweighted(Scheduler):
    """DEFAULT with other weights."""

    def __init__(self, weights: CostWeights, prefixes: PrefixIndex, rng: Random) -> None:
        super().__init__(RoutingStrategy.DEFAULT, prefixes, rng)
        self._strategy = PredictedCost(weights)


def variant_name(weight: str, factor: float) -> str:
    """The name of DEFAULT with `factor` times one of its weights."""
    return f"{RoutingStrategy.DEFAULT.value}, {weight} x {factor:g}"


def _variant(weight: str, factor: float) -> SchedulerSpec:
    weights = replace(DEFAULT, **{weight: factor * getattr(DEFAULT, weight)})
    return SchedulerSpec(
        variant_name(weight, factor), lambda prefixes, rng, _: _Reweighted(weights, prefixes, rng), uses_counters=True
    )


WEIGHT_VARIANTS: Mapping[str, SchedulerSpec] = {
    variant_name(weight, factor): _variant(weight, factor) for weight in WEIGHTS for factor in FACTORS
}
"""DEFAULT with one weight changed, for each of its weights and FACTORS."""
