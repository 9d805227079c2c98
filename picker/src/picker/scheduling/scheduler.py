"""One pool's scheduler: from a request and the endpoints as they are now to an ordered list, or a refusal."""

from collections.abc import Sequence
from random import Random

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.rejection import Rejection, RejectReason
from picker.resources.inference import RoutingStrategy
from picker.scheduling.request import InferenceRequest, Ranking, allowed
from picker.scheduling.saturation import shed
from picker.scheduling.strategies import STRATEGIES

FALLBACKS = 3
"""Endpoints named after the best one. Envoy tries them in order when the first does not answer; three dead in a row is
an outage that a fourth would not mend, and the list travels with every request."""


ALL_LOOKED_AT = 64
"""Endpoints of a pool that is small enough to look at every one."""

SAMPLED = 32
MOST_HOLDERS = 8
"""Drawn from a larger pool, and added for their cache."""


class Scheduler:
    """Decides for one pool. Deterministic for a seeded `rng`; keeps what its strategy remembers and nothing else."""

    def __init__(self, strategy: RoutingStrategy, prefixes: PrefixIndex, rng: Random) -> None:
        self.strategy = strategy
        self._strategy = STRATEGIES[strategy]()
        self._prefixes = prefixes
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        """Rank `endpoints` (the ready ones of the pool) for `request`. `now_s` is on the clock of the scrapes."""
        endpoints = allowed(endpoints, request.subset)
        if not endpoints and request.subset is not None:
            return Rejection(RejectReason.SUBSET_EMPTY, "None of the endpoints that the proxy allows is ready.")
        if not endpoints:
            return Rejection(RejectReason.NO_READY_ENDPOINTS, "No model server of the pool is ready.")
        if shed(request.criticality, endpoints, now_s):
            return Rejection(
                RejectReason.SATURATED,
                f"All model servers are busy and the request is {request.criticality}. Try again later.",
            )
        required_candidates = self._strategy.required_candidates(request, endpoints)
        endpoints = self._candidates(request, endpoints, required_candidates)
        cached = self._cached_tokens(request, endpoints)
        return self._ranked(
            self._strategy.costs(request, endpoints, cached, required_candidates, now_s), endpoints, cached
        )

    def _candidates(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], required_candidates: Sequence[Endpoint] | None
    ) -> Sequence[Endpoint]:
        """All endpoints of a small pool. Of a large one a sample, those that hold most of the prompt, and those that
        the strategy must see: the best of some thirty drawn at random is hardly worse than the best of all, and looking
        at all would take longer than a request should wait for its pick."""
        count = len(endpoints)
        if count <= ALL_LOOKED_AT or required_candidates is None:
            return endpoints
        start, stride = int(self._rng.random() * count), 1 + int(self._rng.random() * (count // SAMPLED))
        sampled = [endpoints[(start + index * stride) % count] for index in range(SAMPLED)]
        drawn = [endpoint for endpoint in sampled if endpoint.unreachable_since_s is None]
        if not drawn:
            return endpoints
        holders = allowed(self._prefixes.holders(request.blocks, MOST_HOLDERS), request.subset)
        return list(dict.fromkeys([*drawn, *holders, *required_candidates]))

    def _cached_tokens(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[int]:
        """For each endpoint the prompt tokens it is thought to have cached: the matched share of the prompt's
        blocks."""
        if not request.blocks:
            return [0] * len(endpoints)
        matches = self._prefixes.matches(request.blocks, endpoints)
        if not any(matches):
            return matches
        tokens, count = request.prompt_tokens, len(request.blocks)
        # Endpoints are many, and what they hold of a prompt is one of few lengths.
        cached = {blocks: blocks * tokens // count for blocks in set(matches)}
        return list(map(cached.__getitem__, matches))

    def _ranked(self, costs: Sequence[float], endpoints: Sequence[Endpoint], cached: Sequence[int]) -> Ranking:
        """Cheapest first, equals by lot, endpoints that refuse connections after all others."""
        order: Sequence[int] = range(len(costs))
        if len(set(costs)) < len(costs):
            # Sorting is stable: those of equal cost stay as they were drawn.
            lot = self._rng.random
            order = sorted(order, key=[lot() for _ in order].__getitem__)
        order = sorted(order, key=costs.__getitem__)
        best = order[: 1 + FALLBACKS]
        # A list, for a generator costs more than the look at all four.
        if [index for index in best if endpoints[index].unreachable_since_s is not None]:
            order.sort(key=lambda index: endpoints[index].unreachable_since_s is not None)
            best = order[: 1 + FALLBACKS]
        return Ranking(tuple([endpoints[index] for index in best]), cached[best[0]], endpoints, costs, cached)
