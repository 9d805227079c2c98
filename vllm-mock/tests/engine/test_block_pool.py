"""Block pool: no block is lost, duplicated, or allocated to two requests at once."""

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vllm_mock.engine.blocks import BlockPool, chain, root

BLOCKS = 12


class PoolMachine(RuleBasedStateMachine):
    """Requests take, share, fill and release blocks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS + 1, enable_prefix_caching=True)
        self.requests: list[list[int]] = []
        self.hashes: list[list[bytes]] = []

    @rule(count=st.integers(1, 5), content=st.integers(0, 3), full=st.integers(0, 5))
    def admit(self, count: int, content: int, full: int) -> None:
        """Admit a request of `count` blocks with one of four contents. It hits cached blocks and fills some others."""
        hashes: list[bytes] = []
        for index in range(count):
            parent = hashes[-1] if hashes else root(None, None)
            hashes.append(chain(parent, array("q", [content, index])))
        cached = self.pool.find(hashes[: count - 1])
        if count - len(cached) + self.pool.free_among(cached) > self.pool.free:
            return
        self.pool.hold(cached)
        blocks = cached + self.pool.take(count - len(cached))
        for index in range(len(cached), min(full, count)):
            self.pool.cache(blocks[index], hashes[index])
        self.requests.append(blocks)

    @rule(which=st.integers(0, 20))
    def release(self, which: int) -> None:
        if self.requests:
            self.pool.release(self.requests.pop(which % len(self.requests)))

    @rule()
    def reset(self) -> None:
        """Only a pool without held blocks empties its cache."""
        assert self.pool.reset() == (not self.requests)

    @invariant()
    def every_block_is_held_or_free(self) -> None:
        held = {block for blocks in self.requests for block in blocks}
        assert self.pool.used == len(held)
        assert self.pool.free == BLOCKS - len(held)
        assert 0 not in held

    @invariant()
    def usage_is_the_share_of_held_blocks(self) -> None:
        assert abs(self.pool.usage - self.pool.used / BLOCKS) < 1e-12


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_last_block_of_a_released_sequence_is_evicted_first() -> None:
    pool = BlockPool(5, enable_prefix_caching=True)
    hashes = [bytes([index]) * 16 for index in range(4)]
    blocks = pool.take(4)
    for block, block_hash in zip(blocks, hashes, strict=True):
        pool.cache(block, block_hash)
    pool.release(blocks)
    pool.take(2)
    assert pool.find(hashes) == blocks[:2]


def test_unhashed_blocks_are_reused_before_hashed_blocks() -> None:
    pool = BlockPool(5, enable_prefix_caching=True)
    blocks = pool.take(4)
    pool.cache(blocks[0], b"first")
    pool.release(blocks)
    assert blocks[0] not in pool.take(3)
    assert pool.find([b"first"]) == [blocks[0]]


def test_hashes_are_equal_in_every_process() -> None:
    """KV events publish them."""
    assert chain(root("sql-lora", "salt"), array("q", range(16))).hex() == "2c4292b8161783f37d64eebe31b3b3de"
