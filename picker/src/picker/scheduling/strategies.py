"""The ways to choose, one module each. A strategy says what each endpoint would cost a request; the scheduler takes the
cheapest. To add one: write its module, name it in `resources.inference.RoutingStrategy` and in `STRATEGIES`."""

from collections.abc import Callable, Mapping

from picker.resources.inference import RoutingStrategy
from picker.scheduling.baselines import LeastRequest, RandomChoice, RoundRobin
from picker.scheduling.cost import PredictedCost
from picker.scheduling.prefix_cache import PrefixCacheCost
from picker.scheduling.strategy import Strategy

STRATEGIES: Mapping[RoutingStrategy, Callable[[], Strategy]] = {
    RoutingStrategy.DEFAULT: PredictedCost,
    RoutingStrategy.PREFIX_CACHE: PrefixCacheCost,
    RoutingStrategy.LEAST_REQUEST: LeastRequest,
    RoutingStrategy.ROUND_ROBIN: RoundRobin,
    RoutingStrategy.RANDOM: RandomChoice,
}

__all__ = ["STRATEGIES", "Strategy"]
