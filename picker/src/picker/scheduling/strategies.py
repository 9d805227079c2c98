"""The routing strategies by name.

A strategy returns the cost of a request on each endpoint, and the scheduler takes the cheapest. To add one, write its
class and add its name to `resources.inference.RoutingStrategy` and to `STRATEGIES`.
"""

from collections.abc import Callable, Mapping

from picker.resources.inference import RoutingStrategy
from picker.scheduling.baselines import LeastRequest, RandomChoice, RoundRobin
from picker.scheduling.cost import PREFIX_CACHE, PredictedCost
from picker.scheduling.strategy import Strategy

STRATEGIES: Mapping[RoutingStrategy, Callable[[], Strategy]] = {
    RoutingStrategy.DEFAULT: PredictedCost,
    RoutingStrategy.PREFIX_CACHE: lambda: PredictedCost(PREFIX_CACHE),
    RoutingStrategy.LEAST_REQUEST: LeastRequest,
    RoutingStrategy.ROUND_ROBIN: RoundRobin,
    RoutingStrategy.RANDOM: RandomChoice,
}

__all__ = ["STRATEGIES", "Strategy"]
