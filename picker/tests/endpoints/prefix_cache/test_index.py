"""The estimated prefixes of endpoints, compared with a model that keeps each block of every prompt."""

from collections.abc import Sequence
from random import Random

import pytest
from fleet import endpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.prefix_cache.index import COARSE_STRIDE, FINE_BLOCKS, PrefixIndex, block_hashes

BLOCK = 4


def blocks(text: str) -> tuple[int, ...]:
    """Hashes of a prompt with one character per block."""
    return block_hashes(b"", text.encode("utf-32-le"), BLOCK, 4096)


def sized(kv_blocks: int | None, block_size_tokens: int | None = 16) -> Endpoint:
    created = endpoint(1)
    created.metrics = ServerMetrics(0, 0, 0.0, kv_blocks=kv_blocks, block_size_tokens=block_size_tokens)
    return created


class NaiveCache:
    """Prefixes by their text, least recently used and then longest out first, each with its weight."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._prefixes: list[tuple[str, int]] = []
        """Oldest first, with the number of blocks that each represents."""

    @property
    def size(self) -> int:
        return sum(represented for _, represented in self._prefixes)

    def record(self, text: str) -> None:
        for length, represented in reversed(stored_prefixes(text[: self._capacity])):
            prefix = text[:length], represented
            if prefix in self._prefixes:
                self._prefixes.remove(prefix)
            self._prefixes.append(prefix)
        while self.size > self._capacity:
            del self._prefixes[0]

    def held(self, text: str) -> int:
        depth = 0
        for length, represented in stored_prefixes(text):
            if (text[:length], represented) not in self._prefixes:
                break
            depth = length
        return depth


def stored_prefixes(text: str) -> Sequence[tuple[int, int]]:
    """The lengths of a prompt's stored prefixes, and the blocks that each adds."""
    fine = [(length, 1) for length in range(1, min(len(text), FINE_BLOCKS) + 1)]
    return fine + [
        (length, COARSE_STRIDE) for length in range(FINE_BLOCKS + COARSE_STRIDE, len(text) + 1, COARSE_STRIDE)
    ]


texts = st.builds(
    # Few beginnings and few ends, so that prompts share some and differ in some.
    lambda head, shared, tail: head * shared + tail,
    st.sampled_from("ab"),
    st.integers(0, 12) | st.integers(FINE_BLOCKS - 2, FINE_BLOCKS + 40),
    st.text("cd", max_size=12),
)


class PrefixIndexAgainstTheModel(RuleBasedStateMachine):
    """Three endpoints join, leave, and are sent prompts."""

    @initialize(capacity=st.sampled_from((1, 5, 20, FINE_BLOCKS + 3, FINE_BLOCKS + 30, 400)))
    def start(self, capacity: int) -> None:
        self.capacity = capacity
        self.index = PrefixIndex(64, default_capacity_blocks=capacity)
        self.fleet = [endpoint(number, scraped=False) for number in range(3)]
        self.models = [NaiveCache(capacity) for _ in self.fleet]

    @rule(number=st.integers(0, 2), text=texts)
    def is_sent_a_prompt(self, number: int, text: str) -> None:
        self.index.record(self.fleet[number], blocks(text))
        self.models[number].record(text)

    @rule(number=st.integers(0, 2))
    def is_gone_and_another_comes(self, number: int) -> None:
        self.index.forget(self.fleet[number])
        self.fleet[number], self.models[number] = endpoint(number, scraped=False), NaiveCache(self.capacity)

    @rule(text=texts)
    def is_asked(self, text: str) -> None:
        expected = [model.held(text) for model in self.models]
        requested = blocks(text)
        assert list(self.index.matches(requested, self.fleet)) == expected
        assert [self.index.cached_blocks(item, requested) for item in self.fleet] == expected
        holding = [item for item, depth in zip(self.fleet, expected, strict=True) if depth]
        found = self.index.holders(requested, 3)
        assert set(map(id, found)) == set(map(id, holding))
        depths = [expected[self.fleet.index(item)] for item in found]
        assert depths == sorted(depths, reverse=True)
        assert self.index.holders(requested, 1) == found[:1]

    @invariant()
    def remembers_no_more_than_the_endpoints_hold(self) -> None:
        assert len(self.index) == len({prefix for model in self.models for prefix in model._prefixes})


TestPrefixIndexAgainstTheModel = PrefixIndexAgainstTheModel.TestCase
TestPrefixIndexAgainstTheModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=20), st.integers(1, 6))
def test_hashes_that_no_prompt_could_have_break_nothing(sequences: list[list[int]], capacity: int) -> None:
    """For example colliding hashes: a wrong estimate is allowed, an exception or a leak is not."""
    index, fleet = PrefixIndex(64, default_capacity_blocks=capacity), [endpoint(n, scraped=False) for n in range(2)]
    for number, hashes in enumerate(sequences):
        index.record(fleet[number % 2], hashes)
        assert all(0 <= depth <= len(hashes) for depth in index.matches(hashes, fleet))
        assert len(index) <= 2 * capacity
    for item in fleet:
        index.forget(item)
    assert len(index) == 0


def test_the_least_recent_prompt_is_evicted_first_from_its_end() -> None:
    """As the servers do it."""
    where, index = endpoint(1, scraped=False), PrefixIndex(64, default_capacity_blocks=6)
    index.record(where, blocks("old"))
    index.record(where, blocks("new"))
    index.record(where, blocks("x"))
    assert [index.cached_blocks(where, blocks(text)) for text in ("old", "new", "x")] == [2, 3, 1]


def test_a_prompt_that_is_used_again_stays() -> None:
    """Another one is evicted in its place."""
    where, index = endpoint(1, scraped=False), PrefixIndex(64, default_capacity_blocks=6)
    index.record(where, blocks("old"))
    index.record(where, blocks("new"))
    index.record(where, blocks("old"))
    index.record(where, blocks("xyz"))
    assert [index.cached_blocks(where, blocks(text)) for text in ("old", "new", "xyz")] == [3, 0, 3]


def test_a_prompt_longer_than_the_cache_is_held_up_to_its_capacity() -> None:
    """Its prefix, which the next turn repeats."""
    where, index = endpoint(1, scraped=False), PrefixIndex(64, default_capacity_blocks=5)
    index.record(where, blocks("a long prompt"))
    assert index.cached_blocks(where, blocks("a long prompt")) == 5


def test_the_prefix_of_a_long_prompt_is_known_to_one_part_in_16() -> None:
    """Never more than is held."""
    where, index = endpoint(1, scraped=False), PrefixIndex(64)
    for length in range(1, 1200, 7):
        index.record(where, blocks("a" * length + "b"))
        known = index.cached_blocks(where, blocks("a" * length + "c" * 300))
        assert length * 15 / 16 - 1 <= known <= length


@pytest.mark.parametrize(
    ("kv_blocks", "block_size_tokens", "expected"),
    [(4000, 16, 1000), (None, 16, 4096), (4000, None, 4096), (10**9, 16, 32_768)],
)
def test_the_capacity_is_the_reported_one(kv_blocks: int | None, block_size_tokens: int | None, expected: int) -> None:
    """In blocks of its own size. Without a report a usual size is used, and memory is always bounded."""
    assert PrefixIndex(64).capacity_blocks(sized(kv_blocks, block_size_tokens)) == expected


def test_a_smaller_cache_is_followed() -> None:
    """A server that has restarted with less memory."""
    where, index = sized(400), PrefixIndex(64)
    index.record(where, blocks("x" * 100))
    where.metrics = sized(40).metrics
    index.record(where, blocks("y"))
    assert len(index) == 10


def test_endpoints_that_leave_leave_nothing_behind() -> None:
    """New endpoints use their bits."""
    index, random = PrefixIndex(64, default_capacity_blocks=50), Random(1)
    for number in range(200):
        where = endpoint(number % 250, scraped=False)
        for _ in range(5):
            index.record(where, blocks(f"{random.random()}"))
        index.forget(where)
    assert len(index) == 0
    assert len(index._bits) == 1
