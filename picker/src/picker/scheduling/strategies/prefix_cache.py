"""PREFIX_CACHE: where the prompt's beginning is cached, as far as the load allows."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.strategies.default import LeastWork
from picker.scheduling.strategies.homes import Homes
from picker.scheduling.strategies.load import requests_at

MISS = 1.2
"""Times its tokens that a miss costs: what is computed again also takes the place of what others have cached."""

HOME_BLOCKS = 16
"""Of a prompt that continues no conversation, these first blocks say where it belongs: 1024 tokens, a system prompt."""

HOME_WEIGHT = 4.0
MOST_HOME = 2.0
"""A prompt's home saves its fresh tokens times the share of other pickers' requests times the one, at most the other.
What this picker cannot know to be cached others have sent there; when there are no others it knows better itself."""

LOAD_BOUND = 1.25
SLACK_REQUESTS = 1
"""A home with more requests than the mean times the one, and the other on top, is none: consistent hashing with bounded
loads (Mirrokni et al., 2016), so that one hot prefix spreads over as many endpoints as it needs."""

MEMORY = 0.98
"""Of the share of others, a decision: the last 50 count."""


class PrefixAffinity:
    """DEFAULT's cost, with misses dearer, and a prompt's home cheaper where there are other pickers."""

    def __init__(self) -> None:
        self._work = LeastWork()
        self._homes = Homes()
        self._others = 0.0

    def notable(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        home = self._home(request, endpoints)
        return () if home is None else (home,)

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        notable: Sequence[Endpoint] | None,
        now_s: float,
    ) -> Sequence[float]:
        counts = requests_at(endpoints)
        total = sum(counts)
        if total:
            mine = sum([endpoint.in_flight.requests for endpoint in endpoints])
            self._others = MEMORY * self._others + (1 - MEMORY) * (1 - mine / total)
        home = notable[0] if notable else None
        at_home = max(0.0, MISS - min(MOST_HOME, HOME_WEIGHT * self._others))
        bound = LOAD_BOUND * total / len(counts) + SLACK_REQUESTS
        tokens = request.prompt_tokens
        fresh = [
            (tokens - cached if cached < tokens else 0) * (at_home if endpoint is home and count <= bound else MISS)
            for endpoint, cached, count in zip(endpoints, cached_tokens, counts, strict=True)
        ]
        return self._work.costs_of(request, endpoints, fresh, counts, now_s)

    def _home(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """None where it does not matter."""
        if not request.blocks or self._others < 0.01:
            return None
        key = request.conversation
        if key is None:
            key = request.blocks[min(len(request.blocks), HOME_BLOCKS) - 1]
        return self._homes.of(key, endpoints)
