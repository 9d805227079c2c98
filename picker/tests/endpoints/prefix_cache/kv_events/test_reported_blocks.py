"""An index of the blocks that endpoints report."""

from collections.abc import Sequence
from typing import Any

import pytest
from fleet import endpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from picker.endpoints.prefix_cache.kv_events.messages import AllBlocksCleared, BlockRemoved, BlockStored
from picker.endpoints.prefix_cache.kv_events.reported_blocks import (
    MAX_BLOCKS_OF_BATCH,
    ReportedBlocks,
    chain_root,
    token_chain,
)

SIZE = 2
A, B = endpoint(1), endpoint(2)


def chain(tokens: Sequence[int], lora: str | None = None) -> list[int]:
    return token_chain(tokens, SIZE, chain_root(SIZE, lora))


def store(hashes: Sequence[int | bytes], tokens: Sequence[int], parent: int | None = None, **more: Any) -> BlockStored:
    return BlockStored(hashes, parent, tokens, SIZE, **more)


def held(*followed: Any) -> ReportedBlocks:
    index = ReportedBlocks()
    for item in followed or (A, B):
        index.follow(item)
        index.restart(item, empty=True)
    return index


def test_blocks_are_found_by_their_tokens_whatever_their_hashes() -> None:
    index = held()
    index.apply(A, [store([10, 11], [1, 2, 3, 4]), store([12], [5, 6], parent=11)])
    index.apply(B, [store([b"x" * 32], [1, 2])])
    assert index.depths(chain([1, 2, 3, 4, 5, 6, 7, 8])) == {A: 3, B: 1}
    assert index.depths(chain([9, 9])) == {}


def test_a_removed_block_is_not_held() -> None:
    index = held()
    index.apply(A, [store([10, 11], [1, 2, 3, 4]), BlockRemoved([11])])
    assert index.depths(chain([1, 2, 3, 4])) == {A: 1}
    index.apply(A, [BlockRemoved([10])])
    assert len(index) == 0


def test_a_block_with_two_copies_is_held_until_the_last_is_removed() -> None:
    """Two requests that compute the same block at the same time leave two copies."""
    index = held()
    index.apply(A, [store([10], [1, 2]), store([10], [1, 2]), BlockRemoved([10])])
    assert index.depths(chain([1, 2])) == {A: 1}
    index.apply(A, [BlockRemoved([10])])
    assert index.depths(chain([1, 2])) == {}


def test_a_reset_cache_holds_nothing() -> None:
    index = held()
    assert not index.apply(A, [store([10], [1, 2])])
    assert index.apply(A, [AllBlocksCleared(), store([11], [3, 4])])
    assert index.depths(chain([1, 2])) == {}
    assert index.depths(chain([3, 4])) == {A: 1}


def test_adapters_share_no_blocks() -> None:
    index = held()
    index.apply(A, [store([10], [1, 2], lora_id=1, lora_name="sql")])
    assert index.depths(chain([1, 2])) == {}
    assert index.depths(chain([1, 2], "sql")) == {A: 1}


def test_blocks_after_an_unknown_block_are_not_known() -> None:
    """Its sequence began before the subscription, or with an image."""
    index = held()
    index.apply(A, [store([12], [5, 6], parent=11), BlockRemoved([12]), BlockRemoved([99])])
    assert len(index) == 0


def test_other_tiers_and_windows_are_not_the_prefix_cache() -> None:
    index = held()
    index.apply(
        A,
        [
            store([10], [1, 2], medium="CPU"),
            store([11], [3, 4], group_idx=1, kv_cache_spec_kind="sliding_window"),
            store([12], [5, 6], medium="GPU", group_idx=0, kv_cache_spec_kind="full_attention"),
            store([12], [5, 6], medium="GPU", group_idx=2, kv_cache_spec_kind="full_attention"),
            BlockRemoved([12], medium="CPU", group_idx=0),
            BlockRemoved([12], medium="GPU", group_idx=2),
        ],
    )
    assert [len(index), index.depths(chain([5, 6]))] == [1, {A: 1}]


def test_expected_blocks_count_as_held_until_they_are_settled() -> None:
    index, names = held(), chain([1, 2, 3, 4])
    index.expect(A, names)
    index.expect(A, names[:1])
    assert index.depths(names) == {A: 2}
    assert index.depth(A, names) == 0
    index.settle(A, names)
    assert index.depths(names) == {A: 1}
    index.apply(A, [store([10], [1, 2])])
    index.settle(A, names[:1])
    assert index.depths(names) == {A: 1}
    index.apply(A, [BlockRemoved([10])])
    assert len(index) == 0


def test_a_block_removed_while_it_is_expected_stays() -> None:
    """It is computed again for the request that needs it."""
    index, names = held(), chain([1, 2])
    index.apply(A, [store([10], [1, 2])])
    index.expect(A, names)
    index.apply(A, [BlockRemoved([10])])
    assert index.depths(names) == {A: 1}
    index.restart(A, empty=False)
    assert index.depths(names) == {A: 1}
    index.settle(A, names)
    assert len(index) == 0


def test_a_removed_endpoint_leaves_nothing() -> None:
    index, names = held(), chain([1, 2, 3, 4])
    index.apply(A, [store([10], [1, 2])])
    index.expect(A, names)
    index.forget(A)
    assert [len(index), index.stored_blocks(A), index.block_size(A)] == [0, None, None]
    index.settle(A, names)
    index.expect(A, names)
    assert len(index) == 0


def test_all_is_known_after_every_batch_and_for_blocks_of_that_size() -> None:
    index = held()
    index.apply(A, [store([10], [1, 2])])
    assert A in index.all_known(SIZE)
    assert A not in index.all_known(16)
    index.restart(A, empty=False)
    index.apply(A, [store([10], [1, 2])])
    assert A not in index.all_known(SIZE)
    assert endpoint(3) not in index.all_known(SIZE)


def test_memory_is_bounded() -> None:
    index = ReportedBlocks(max_blocks=10)
    index.follow(A)
    index.restart(A, empty=True)
    for number in range(100):
        index.apply(A, [store([number], [number, number])])
    assert len(index) == 10
    assert A not in index.all_known(SIZE)


@pytest.mark.parametrize("event", [store([1], [1]), store([1], [1, 1 << 63])])
def test_invalid_events_are_rejected(event: BlockStored) -> None:
    with pytest.raises(ValueError, match="token"):
        held().apply(A, [event])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(0, 1), st.lists(st.integers(0, 1), min_size=1, max_size=4)),
        st.tuples(st.just("remove"), st.integers(0, 1), st.lists(st.integers(0, 1), min_size=1, max_size=4)),
        st.tuples(st.just("expect"), st.integers(0, 1), st.lists(st.integers(0, 1), min_size=1, max_size=4)),
        st.tuples(st.just("settle"), st.integers(0, 1), st.just([0])),
        st.tuples(st.just("clear"), st.integers(0, 1), st.just([0])),
    ),
    max_size=40,
)


def test_one_hash_for_two_blocks_is_rejected() -> None:
    """The first block of a hash that is used again would never be removed."""
    index = ReportedBlocks(max_blocks=10)
    index.follow(A)
    with pytest.raises(ValueError, match="one hash for two"):
        index.apply(A, [store([10], [number, number]) for number in range(100)])
    assert index.stored_blocks(A) == 1


def test_a_block_removed_by_two_hashes_is_rejected() -> None:
    index = held()
    with pytest.raises(ValueError, match="two hashes for one block"):
        index.apply(A, [store([10], [1, 2]), store([11], [1, 2]), BlockRemoved([10, 10, 11])])


@pytest.mark.parametrize(
    "event",
    [store([b"x" * 65], [1, 2]), BlockRemoved(list(range(MAX_BLOCKS_OF_BATCH + 1)))],
    ids=["a long hash", "too many blocks"],
)
def test_a_batch_is_bounded(event: BlockStored | BlockRemoved) -> None:
    with pytest.raises(ValueError, match=r"a hash of|a batch of"):
        held().apply(A, [event])


hashes_of_any_kind = st.one_of(st.integers(0, 4), st.binary(max_size=2))


@given(
    st.lists(
        st.one_of(
            st.tuples(hashes_of_any_kind, st.integers(0, 3), st.none() | hashes_of_any_kind),
            st.lists(hashes_of_any_kind, max_size=4),
        ),
        max_size=40,
    )
)
def test_memory_is_bounded_for_any_events(steps: list[Any]) -> None:
    """They are applied or rejected, and nothing else is raised."""
    index = ReportedBlocks(max_blocks=5)
    index.follow(A)
    for step in steps:
        event = BlockRemoved(step) if isinstance(step, list) else store([step[0]], [step[1]] * SIZE, parent=step[2])
        try:
            index.apply(A, [event])
        except ValueError:
            index.restart(A, empty=False)
        assert (index.stored_blocks(A) or 0) <= 5
        assert len(index) <= 5
    index.forget(A)
    assert len(index) == 0


def test_tokens_may_be_any_number_of_63_bits() -> None:
    """As those of the mock's approximate tokenizer."""
    index = held()
    index.apply(A, [store([10], [1 << 40, 1 << 62])])
    assert index.depths(chain([1 << 40, 1 << 62])) == {A: 1}


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_index_agrees_with_a_plain_count_of_blocks(steps: list[tuple[str, int, list[int]]]) -> None:
    """Prefixes are lists of 0 and 1, one digit per block. The servers' hashes are made of them."""
    index, ends = held(A, B), (A, B)
    stored: list[dict[tuple[int, ...], int]] = [{}, {}]
    under_way: list[list[list[int]]] = [[], []]

    def engine_hash(prefix: Sequence[int]) -> int:
        return int("1" + "".join(map(str, prefix)))

    for action, number, prefix in steps:
        where, own = ends[number], stored[number]
        tokens = [token for digit in prefix for token in (digit, digit)]
        if action == "store":
            hashes = [engine_hash(prefix[: end + 1]) for end in range(len(prefix))]
            index.apply(where, [store(hashes, tokens)])
            for end in range(len(prefix)):
                own[tuple(prefix[: end + 1])] = own.get(tuple(prefix[: end + 1]), 0) + 1
        elif action == "remove":
            index.apply(where, [BlockRemoved([engine_hash(prefix)])])
            if own.get(tuple(prefix)):
                own[tuple(prefix)] -= 1
        elif action == "expect":
            names = chain(tokens)
            index.expect(where, names)
            under_way[number].append(names)
        elif action == "settle" and under_way[number]:
            index.settle(where, under_way[number].pop())
        elif action == "clear":
            index.apply(where, [AllBlocksCleared()])
            own.clear()
    for number, where in enumerate(ends):
        known = {
            chain([token for digit in prefix for token in (digit, digit)])[-1]
            for prefix, n in stored[number].items()
            if n
        }
        expected = {name for names in under_way[number] for name in names}
        assert {name for name in index._holders if where in index.depths([name])} == known | expected
