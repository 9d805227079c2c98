"""Decides for which requests the proxy also sends the response headers.

They carry the status and the endpoint that answered, and mark the time of the first byte. They cost one more message
and reply, which delay the client's first byte. So they are requested where they are used, and for a sample."""

from collections.abc import Callable
from random import Random

SAMPLED_SHARE = 1 / 8
"""Of the responses of a pool without errors. Judgement: an endpoint that fails every request is detected after eight
of them on average, at an eighth of the cost of sampling all."""

SAMPLE_ALL_AFTER_ERROR_S = 30.0
"""All responses of a pool are sampled for this long after an error (a client's error included) or a rerouted request.
Judgement: every error of a series is then counted, and an endpoint's error rate is recent."""


class ResponseHeaderSampler:
    """Decides for each request whether its response headers are requested, when only its pool is known."""

    def __init__(self, clock: Callable[[], float], rng: Random, *, every: bool) -> None:
        """`clock`: monotonic. `every`: sample all responses of all pools."""
        self._clock = clock
        self._rng = rng
        self._every = every
        self._renaming: frozenset[str] = frozenset()
        self._until_s: dict[str, float] = {}

    def renaming(self, pools: frozenset[str]) -> None:
        """Samples all responses of these pools. Their models may have another name at the servers, which the response
        has to restore."""
        self._renaming = pools

    def should_sample(self, pool: str) -> bool:
        """Whether to request the response headers of a request to `pool`."""
        if self._every or pool in self._renaming or self._rng.random() < SAMPLED_SHARE:
            return True
        until_s = self._until_s.get(pool)
        if until_s is None:
            return False
        if self._clock() < until_s:
            return True
        del self._until_s[pool]
        return False

    def sample_all(self, pool: str) -> None:
        """Samples all responses of `pool` for `SAMPLE_ALL_AFTER_ERROR_S`. Called after a failed or rerouted request."""
        self._until_s[pool] = self._clock() + SAMPLE_ALL_AFTER_ERROR_S
