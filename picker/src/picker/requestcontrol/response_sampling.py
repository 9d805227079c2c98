"""Which answers begin before the picker's eyes: their headers tell status and server, and when they came.

Each costs a message and a reply more, for which the client's first byte waits. So they are asked for where somebody
uses them, and of one request in a few besides: that is how failures come to be known, and then all are seen."""

from collections.abc import Callable
from random import Random

SAMPLED_SHARE = 1 / 8
"""Of the answers of a pool without trouble. A server whose answers all fail is known after eight of them on average,
and looking costs an eighth of what it would for all."""

SAMPLE_ALL_AFTER_ERROR_S = 30.0
"""All answers are seen for this long after an error, a client's own included, or one from another server than the
picked one: so errors that go on are counted each, and a server's share of failures is that of now."""


class ResponseHeaderSampler:
    """Says for each request whether its answer's headers are wanted, before more of it is known than its pool."""

    def __init__(self, clock: Callable[[], float], rng: Random, *, every: bool) -> None:
        """`clock`: monotonic. `every`: all answers of all pools."""
        self._clock = clock
        self._rng = rng
        self._every = every
        self._renaming: frozenset[str] = frozenset()
        self._until_s: dict[str, float] = {}

    def renaming(self, pools: frozenset[str]) -> None:
        """In these pools a model may have another name, which is put right in the answer: all of them are seen."""
        self._renaming = pools

    def wanted(self, pool: str) -> bool:
        if self._every or pool in self._renaming or self._rng.random() < SAMPLED_SHARE:
            return True
        until_s = self._until_s.get(pool)
        if until_s is None:
            return False
        if self._clock() < until_s:
            return True
        del self._until_s[pool]
        return False

    def trouble(self, pool: str) -> None:
        """An answer in `pool` was none to be content with."""
        self._until_s[pool] = self._clock() + SAMPLE_ALL_AFTER_ERROR_S
