"""The scheduler of one pool: ranks the endpoints for a request, or rejects it."""

from collections.abc import Sequence
from random import Random

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.rejection import Rejection, RejectReason
from picker.resources.inference import Criticality, RoutingStrategy
from picker.scheduling.latency_slo import attainable
from picker.scheduling.request import InferenceRequest, Ranking, allowed
from picker.scheduling.saturation import shed
from picker.scheduling.strategies import STRATEGIES

FALLBACKS = 3
"""Endpoints named after the best one. Envoy tries them in order when the first does not answer. Judgement: three that
fail in a row are an outage that a fourth would not avoid. The list is sent with every request."""

FULL_SCAN_LIMIT = 64
"""A pool of at most so many endpoints is not sampled."""

SAMPLE_SIZE = 32
"""Endpoints drawn from a larger pool."""

MAX_CACHE_HOLDERS = 8
"""Endpoints added to the sample because they hold most of the prompt."""


class Scheduler:
    """Decides for one pool. Deterministic for a seeded `rng`. Its only state is that of its strategy."""

    def __init__(self, strategy: RoutingStrategy, prefixes: PrefixIndex, rng: Random) -> None:
        self.strategy = strategy
        self._strategy = STRATEGIES[strategy]()
        self.prefixes = prefixes
        """May be replaced at any time."""
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        """Rank `endpoints`, the ready ones of the pool, for `request`. `now_s` is on the clock of the scrapes."""
        endpoints = allowed(endpoints, request.subset)
        if not endpoints and request.subset is not None:
            return Rejection(RejectReason.SUBSET_EMPTY, "None of the endpoints that the proxy allows is ready.")
        if not endpoints:
            return Rejection(RejectReason.NO_READY_ENDPOINTS, "No model server of the pool is ready.")
        if shed(request.priority, endpoints, now_s):
            criticality = Criticality.of_priority(request.priority)
            return Rejection(
                RejectReason.SATURATED,
                f"All model servers are busy and the request is {criticality}. Try again later.",
            )
        if request.slo is not None and request.priority < 0 and not self._attainable(request, endpoints, now_s):
            return Rejection(
                RejectReason.SLO_UNATTAINABLE,
                "No model server is predicted to keep the latency that the request asks for. Try again later.",
            )
        endpoints = self._candidates(request, endpoints)
        cached = self._cached_tokens(request, endpoints)
        self._strategy.observe(endpoints, now_s)
        return self._ranked(self._strategy.costs(request, endpoints, cached, now_s), endpoints, cached)

    def _attainable(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> bool:
        cached = self._cached_tokens(request, endpoints)
        return request.slo is None or attainable(request.slo, request.prompt_tokens, endpoints, cached, now_s)

    def _candidates(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """All endpoints of a small pool. Of a larger one a sample, and the holders of most of the prompt.

        The best of some thirty endpoints drawn at random is hardly worse than the best of all. The cost of all of them
        takes longer than a request should wait for its pick.
        """
        count = len(endpoints)
        if count <= FULL_SCAN_LIMIT or not self._strategy.is_sampled:
            return endpoints
        start, stride = int(self._rng.random() * count), 1 + int(self._rng.random() * (count // SAMPLE_SIZE))
        sampled = [endpoints[(start + index * stride) % count] for index in range(SAMPLE_SIZE)]
        drawn = [endpoint for endpoint in sampled if endpoint.unreachable_since_s is None]
        if not drawn:
            return endpoints
        holders = allowed(self.prefixes.holders(request.blocks, MAX_CACHE_HOLDERS), request.subset)
        return list(dict.fromkeys([*drawn, *holders]))

    def _cached_tokens(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[int]:
        """Estimated cached prompt tokens of each endpoint: the matched share of the prompt's blocks."""
        if not request.blocks:
            return [0] * len(endpoints)
        matches = self.prefixes.matches(request.blocks, endpoints)
        if not any(matches):
            return matches
        tokens, count = request.prompt_tokens, len(request.blocks)
        # There are many endpoints, but few different match lengths.
        cached = {blocks: blocks * tokens // count for blocks in set(matches)}
        return list(map(cached.__getitem__, matches))

    def _ranked(self, costs: Sequence[float], endpoints: Sequence[Endpoint], cached: Sequence[int]) -> Ranking:
        """Cheapest first, equal costs in random order, endpoints that refuse connections last."""
        order: Sequence[int] = range(len(costs))
        if len(set(costs)) < len(costs):
            # Sorting is stable: equal costs stay in the random order.
            draw = self._rng.random
            order = sorted(order, key=[draw() for _ in order].__getitem__)
        order = sorted(order, key=costs.__getitem__)
        best = order[: 1 + FALLBACKS]
        # A list: a generator costs more than the check of all four.
        if [index for index in best if endpoints[index].unreachable_since_s is not None]:
            order.sort(key=lambda index: endpoints[index].unreachable_since_s is not None)
            best = order[: 1 + FALLBACKS]
        return Ranking(tuple([endpoints[index] for index in best]), cached[best[0]], endpoints, costs, cached)
