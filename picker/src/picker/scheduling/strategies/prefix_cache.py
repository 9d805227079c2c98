"""PREFIX_CACHE: the endpoint that has seen the prompt's prefix, unless it is too busy."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.strategies.default import LeastLoad
from picker.scheduling.strategies.load import requests_there

LOAD_BOUND = 1.25
"""How far over the mean an endpoint may be loaded and still be preferred for its cache. Consistent hashing with bounded
loads (Mirrokni et al., 2016) shows 1.25 to keep nearly all of the affinity."""

SLACK_REQUESTS = 4
"""On top of the bound, so that an idle fleet does not spread a conversation over its replicas."""


class PrefixAffinity:
    """Among the endpoints within the load bound the one with the longest cached prefix; load decides between equals.

    An endpoint over the bound costs more than any within it, however much it has cached: one hot prefix spreads over as
    many endpoints as its load needs, and each of them then has it cached.
    """

    def __init__(self) -> None:
        self._load = LeastLoad()

    def costs(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], cached_tokens: Sequence[int]
    ) -> Sequence[float]:
        load = self._load.costs(request, endpoints, cached_tokens)
        if not any(cached_tokens):
            return load
        counts = [requests_there(endpoint) for endpoint in endpoints]
        bound = LOAD_BOUND * (sum(counts) + 1) / len(counts) + SLACK_REQUESTS
        # Costs in three tiers: cached tokens first, load only as a tie-break below one token, over the bound last.
        heaviest = max(load) + 1.0
        longest = float(max(cached_tokens))
        return [
            longest - cached + cost / heaviest if count < bound else longest + 1.0 + cost / heaviest
            for cached, cost, count in zip(cached_tokens, load, counts, strict=True)
        ]
