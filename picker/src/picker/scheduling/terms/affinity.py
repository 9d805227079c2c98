"""What pickers of one pool can do for each other without a word between them: send what belongs together to one place.

What another picker has sent, and where, nobody tells; half of what is cached was sent by it. But each prompt has a
home, the same one for all pickers, and what goes there is found there again by whoever has the next turn."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.terms.hash_ring import HashRing

MEMORY = 0.98
"""Of what is learned here: the last 50 prompts count, and the last 50 looks."""

LEAST_SHARE = 0.03
"""Of the requests on the servers, to come past this picker. With less it knows better itself what is cached."""

PREFIX_BLOCKS = 16
"""Of a prompt that continues no conversation, these first blocks say where it belongs: 1024 tokens, a system prompt."""

OWN_CACHE_CONFIDENCE = 0.3
"""Of what this picker has sent elsewhere than home: it takes room that others do not know of, and what they send there
drives it out."""

LEAST_REPEATS = 0.3
"""Of the prompts, to begin like one before. Where fewer do, one with a new beginning belongs nowhere."""

MISS_PENALTY = 1.1
"""Times its tokens that a miss costs, as it makes two places of one."""


class CrossPickerAffinity:
    """Learns from a pool's requests what homes are worth."""

    def __init__(self) -> None:
        self._homes = HashRing()
        self._others = 0.0
        """Share of the requests on the servers that came past this picker."""
        self._repeats = 0.8
        """Share of the prompts whose first blocks had been seen before. The first ones are taken for such."""
        self._continues = 1.0
        """Share of the chats that continue a conversation."""

    def observe(self, endpoints: Sequence[Endpoint], requests: Sequence[int]) -> None:
        """Learn from how many `requests` are on each of `endpoints`."""
        total = sum(requests)
        if total:
            mine = sum([endpoint.in_flight.requests for endpoint in endpoints])
            self._others = MEMORY * self._others + (1 - MEMORY) * (1 - mine / total)

    def preferred_endpoint(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """Where `request` belongs; None where it does not matter."""
        if not request.blocks or self._others < LEAST_SHARE:
            return None
        key = request.conversation
        if key is None or not (request.continues or self._continues > 0.5):
            key = request.blocks[min(len(request.blocks), PREFIX_BLOCKS) - 1]
        return self._homes.of(key, endpoints)

    def uncached_tokens(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        preferred_endpoint: Endpoint,
    ) -> Sequence[float]:
        """Prompt tokens that each endpoint would have to compute, `preferred_endpoint` as others have left it."""
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
        """The share of what this picker does not know of a prompt that others are taken to have sent home. Squared: the
        less often that is so, the less it is worth going there for."""
        if request.conversation is not None:
            self._continues = MEMORY * self._continues + (1 - MEMORY) * request.continues
            if request.continues:
                return 1.0
            if self._continues > 0.5:
                return self._continues**2
        blocks = len(request.blocks)
        seen = known_tokens >= request.prompt_tokens * min(blocks, PREFIX_BLOCKS) // blocks
        self._repeats = MEMORY * self._repeats + (1 - MEMORY) * seen
        return 0.0 if seen or self._repeats < LEAST_REPEATS else self._repeats**2
