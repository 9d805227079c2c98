"""Who is compared: the picker's strategies, what others do, and the limit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.requestcontrol.in_flight_request import Schedules
from picker.resources.inference import RoutingStrategy
from picker.scheduling.scheduler import Scheduler

from simulator.schedulers.peers import (
    BoundedHashing,
    FilterTree,
    TwoChoices,
    TwoChoicesOfTokens,
    WeightedScorers,
)
from simulator.schedulers.perfect_information import Oracle, Truth

UPSTREAM_SCRAPE_S = 0.05
"""The inference extension's own interval; with a longer one it would be compared at less than its best."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table."""

    name: str
    scheduler: Callable[[PrefixIndex, Random, Truth], Schedules]
    learns: bool = False
    """Whether it makes something of every scrape; they come as often as the scenario says."""
    glances_every_s: float | None = None
    """Of one that does not learn, but looks at the load that the newest scrape told: how often there is one."""


def own(strategy: RoutingStrategy) -> Contender:
    """The picker, by one of its strategies."""
    return Contender(strategy.value, lambda prefixes, rng, _: Scheduler(strategy, prefixes, rng), learns=True)


LEAST_REQUEST = "least-request"
ORACLE = "oracle"

CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        Contender("random", lambda prefixes, rng, _: Scheduler(RoutingStrategy.RANDOM, prefixes, rng)),
        Contender("round-robin", lambda prefixes, rng, _: Scheduler(RoutingStrategy.ROUND_ROBIN, prefixes, rng)),
        Contender(LEAST_REQUEST, lambda _prefixes, rng, _: TwoChoices(rng)),
        Contender("two-choices-tokens", lambda _prefixes, rng, _: TwoChoicesOfTokens(rng), learns=True),
        Contender("filter-tree", lambda _prefixes, rng, _: FilterTree(rng), glances_every_s=UPSTREAM_SCRAPE_S),
        Contender(
            "weighted-scorers",
            lambda prefixes, rng, _: WeightedScorers(rng, prefixes),
            glances_every_s=UPSTREAM_SCRAPE_S,
        ),
        Contender("bounded-hashing", lambda _prefixes, _rng, _: BoundedHashing()),
        own(RoutingStrategy.DEFAULT),
        own(RoutingStrategy.PREFIX_CACHE),
        Contender(ORACLE, lambda _prefixes, rng, truth: Oracle(truth, rng), learns=True),
    )
}
