"""Prefix affinity across the picker replicas of a pool, without communication.

A replica has no record of the prompts that other replicas sent, although these are much of what is cached. Consistent
hashing maps equal prefixes to the same preferred endpoint in every replica. A prompt sent there finds the cache of its
earlier turns, whichever replica picks.
"""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.terms.hash_ring import HashRing

DECAY = 0.98
"""Of each running mean, per value: the last 50 prompts and the last 50 observations count."""

MIN_FOREIGN_SHARE = 0.03
"""Share of the servers' requests from elsewhere from which affinity is used. Below it this picker's own prefix index
is the better estimate of what is cached."""

PREFIX_BLOCKS = 16
"""The first blocks that key a prompt which continues no conversation: 1024 tokens, the length of a system prompt."""

OWN_CACHE_CONFIDENCE = 0.3
"""Factor of cached tokens on other endpoints than the preferred one. Prompts of other replicas, which do not know of
these tokens, evict them."""

MIN_REPEAT_SHARE = 0.3
"""Share of prompts with known first blocks. Below it, a prompt with new first blocks has no preferred endpoint's
cache."""

MISS_PENALTY = 1.1
"""Factor of the tokens that are not cached. A miss puts the same prefix into two caches."""


class CrossPickerAffinity:
    """Estimates from a pool's requests how much the preferred endpoint has cached for a prompt."""

    def __init__(self) -> None:
        self._ring = HashRing()
        self._foreign_share = 0.0
        """Share of the requests on the servers that this picker did not send."""
        self._repeats = 0.8
        """Share of the prompts whose first blocks were known already. Starts high, as if most were."""
        self._continues = 1.0
        """Share of the chats that continue a conversation."""

    def observe(self, endpoints: Sequence[Endpoint], requests: Sequence[int]) -> None:
        """Update the share of foreign requests. `requests[i]` requests are on `endpoints[i]`."""
        total = sum(requests)
        if total:
            own = sum([endpoint.in_flight.requests for endpoint in endpoints])
            self._foreign_share = DECAY * self._foreign_share + (1 - DECAY) * (1 - own / total)

    def preferred_endpoint(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """The endpoint that every replica prefers for `request`. None where affinity has no use."""
        if not request.blocks or self._foreign_share < MIN_FOREIGN_SHARE:
            return None
        key = request.conversation
        if key is None or not (request.continues or self._continues > 0.5):
            key = request.blocks[min(len(request.blocks), PREFIX_BLOCKS) - 1]
        return self._ring.preferred_endpoint(key, endpoints)

    def uncached_tokens(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        preferred_endpoint: Endpoint,
    ) -> Sequence[float]:
        """Estimated prompt tokens that each endpoint has to compute. At `preferred_endpoint` the estimate includes
        what other replicas have sent there."""
        tokens, known = request.prompt_tokens, max(cached_tokens)
        expected = known + (tokens - known) * self._sent_before(request, known)
        return [
            MISS_PENALTY
            * max(
                0.0,
                tokens - (max(expected, cached) if endpoint is preferred_endpoint else OWN_CACHE_CONFIDENCE * cached),
            )
            for endpoint, cached in zip(endpoints, cached_tokens, strict=True)
        ]

    def _sent_before(self, request: InferenceRequest, known_tokens: int) -> float:
        """Estimated share of the unknown part of a prompt that other replicas have sent to the preferred endpoint.

        Squared: a preferred endpoint is worth the less, the less often it holds the prompt.
        """
        if request.conversation is not None:
            self._continues = DECAY * self._continues + (1 - DECAY) * request.continues
            if request.continues:
                return 1.0
            if self._continues > 0.5:
                return self._continues**2
        blocks = len(request.blocks)
        seen = known_tokens >= request.prompt_tokens * min(blocks, PREFIX_BLOCKS) // blocks
        self._repeats = DECAY * self._repeats + (1 - DECAY) * seen
        return 0.0 if seen or self._repeats < MIN_REPEAT_SHARE else self._repeats**2
