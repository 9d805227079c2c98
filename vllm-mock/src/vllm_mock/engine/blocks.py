"""The paged KV cache: blocks, their reference counts, and the prefix cache.

Rules as recorded of vLLM 0.32:

- Only full blocks are hashed, as a chain from the start of the sequence.
- Released blocks go to a queue of free blocks, the last block of the sequence first.
- Hashed blocks go to the tail of that queue, others to its front.
- The front is reused first. A block loses its hash when it is reused.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence, Set
from typing import Protocol

from xxhash import xxh3_128_digest

BlockHash = bytes
"""16 bytes. Equal blocks after equal blocks have equal hashes in every process. Other blocks differ (128 bits)."""


def root(lora: str | None, cache_salt: str | None) -> BlockHash:
    """Return the start of a sequence's chain. Sequences with different adapters or salts share no block."""
    return xxh3_128_digest(repr((lora, cache_salt)).encode())


def chain(parent: BlockHash, tokens: "array[int]") -> BlockHash:
    """Return the hash of a full block that follows `parent`."""
    return xxh3_128_digest(parent + tokens.tobytes())


class BlockListener(Protocol):
    """Receives the blocks that enter and leave the prefix cache."""

    def stored(
        self,
        parent: BlockHash | None,
        hashes: Sequence[BlockHash],
        tokens: Sequence[int],
        lora: str | None,
        salt: str | None,
    ) -> None:
        """Full blocks enter the cache. They follow `parent`; None means that the sequence begins with them."""
        ...

    def removed(self, block_hash: BlockHash) -> None: ...

    def cleared(self) -> None: ...

    def step_ended(self) -> None: ...


class BlockPool:
    """All usable blocks: `num_gpu_blocks` less the null block, which is never allocated."""

    def __init__(self, num_gpu_blocks: int, enable_prefix_caching: bool, listener: BlockListener | None = None) -> None:
        self.usable = num_gpu_blocks - 1
        self._caching = enable_prefix_caching
        self._listener = listener
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_gpu_blocks))
        self._holders = [0] * num_gpu_blocks
        self._hash_of: dict[int, BlockHash] = {}
        self._cached: dict[BlockHash, dict[int, None]] = {}

    @property
    def free(self) -> int:
        """Number of blocks that no request holds, cached or not."""
        return len(self._free)

    @property
    def used(self) -> int:
        return self.usable - len(self._free)

    @property
    def usage(self) -> float:
        """Share of used blocks, 0 to 1, as `vllm:kv_cache_usage_perc`."""
        return 1.0 - len(self._free) / self.usable

    def find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """Return the cached blocks of the longest prefix of `hashes`."""
        found: list[int] = []
        for block_hash in hashes:
            blocks = self._cached.get(block_hash)
            if not blocks:
                break
            found.append(next(iter(blocks)))
        return found

    def cached_hashes(self) -> Set[BlockHash]:
        """Return the hashes of all cached blocks."""
        return self._cached.keys()

    def free_among(self, blocks: Sequence[int]) -> int:
        """Return how many of `blocks` are free: holding them lowers the free count."""
        return sum(self._holders[block] == 0 for block in blocks)

    def hold(self, blocks: Sequence[int]) -> None:
        """Add a reference to cached blocks."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def take(self, count: int) -> list[int]:
        """Allocate `count` blocks from the front of the free queue. The caller ensures that there are enough."""
        taken: list[int] = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            if block in self._hash_of:
                self._evict(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def cache(self, block: int, block_hash: BlockHash) -> None:
        """Add a full block to the prefix cache."""
        if self._caching and block not in self._hash_of:
            self._hash_of[block] = block_hash
            self._cached.setdefault(block_hash, {})[block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """Drop a reference to a request's blocks, which are in their order in the sequence."""
        unhashed: list[int] = []
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._hash_of:
                self._free[block] = None
            else:
                unhashed.append(block)
        for block in reversed(unhashed):
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def reset(self) -> bool:
        """Empty the prefix cache. As in vLLM, returns False and does nothing while any block is held."""
        if self.used:
            return False
        self._hash_of.clear()
        self._cached.clear()
        if self._listener is not None:
            self._listener.cleared()
        return True

    def _evict(self, block: int) -> None:
        block_hash = self._hash_of.pop(block)
        blocks = self._cached[block_hash]
        del blocks[block]
        if not blocks:
            del self._cached[block_hash]
        if self._listener is not None:
            self._listener.removed(block_hash)
