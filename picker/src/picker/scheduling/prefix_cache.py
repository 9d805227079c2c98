"""PREFIX_CACHE: where the prompt's beginning is cached, as far as the load allows."""

from picker.scheduling.cost import PredictedCost


class PrefixCacheCost(PredictedCost):
    """DEFAULT's cost, with misses dearer."""

    miss = 1.2
    """What is computed again also takes the place of what others have cached."""
