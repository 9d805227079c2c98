"""The paged KV cache: blocks, who holds them, and the prefix cache in those that nobody holds.

Rules as recorded of vLLM 0.32: only full blocks are hashed, as a chain from the start of the sequence; blocks that a
request gives back go to a queue of free ones, last block first, hashed ones to its tail and others to its front; the
front is reused first, and only then forgets its hash.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence, Set
from typing import Protocol

from xxhash import xxh3_128_digest

BlockHash = bytes
"""16 bytes. Equal blocks after equal blocks have equal hashes in every process; others differ (128 bits)."""


def root(lora: str | None, cache_salt: str | None) -> BlockHash:
    """What the chain of a sequence starts from: sequences with other adapters or salts share no block."""
    return xxh3_128_digest(repr((lora, cache_salt)).encode())


def chain(parent: BlockHash, tokens: "array[int]") -> BlockHash:
    """The hash of a full block that follows `parent`."""
    return xxh3_128_digest(parent + tokens.tobytes())


class BlockListener(Protocol):
    """Told what enters and leaves the prefix cache."""

    def stored(
        self,
        parent: BlockHash | None,
        hashes: Sequence[BlockHash],
        tokens: Sequence[int],
        lora: str | None,
        salt: str | None,
    ) -> None:
        """Full blocks that follow `parent` (None: the sequence begins with them) can be found from now on."""
        ...

    def removed(self, block_hash: BlockHash) -> None: ...

    def cleared(self) -> None: ...

    def step_ended(self) -> None: ...


class BlockPool:
    """All usable blocks: `num_gpu_blocks` less the null block, which is never given out."""

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
        """Blocks that nobody holds, cached or not."""
        return len(self._free)

    @property
    def used(self) -> int:
        return self.usable - len(self._free)

    @property
    def usage(self) -> float:
        """0 to 1, as `vllm:kv_cache_usage_perc`."""
        return 1.0 - len(self._free) / self.usable

    def find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The cached blocks of the longest prefix of `hashes`."""
        found: list[int] = []
        for block_hash in hashes:
            blocks = self._cached.get(block_hash)
            if not blocks:
                break
            found.append(next(iter(blocks)))
        return found

    def cached_hashes(self) -> Set[BlockHash]:
        """Everything that `find` would find."""
        return self._cached.keys()

    def free_among(self, blocks: Sequence[int]) -> int:
        """How many of `blocks` nobody holds: taking them lowers the free count."""
        return sum(self._holders[block] == 0 for block in blocks)

    def hold(self, blocks: Sequence[int]) -> None:
        """One holder more for cached blocks."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def take(self, count: int) -> list[int]:
        """`count` blocks from the front of the free queue; the caller has made sure that there are as many."""
        taken: list[int] = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            if block in self._hash_of:
                self._forget(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def cache(self, block: int, block_hash: BlockHash) -> None:
        """`block` is full; it can be found from now on."""
        if self._caching and block not in self._hash_of:
            self._hash_of[block] = block_hash
            self._cached.setdefault(block_hash, {})[block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less for a request's blocks, in their order in the sequence."""
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
        """Forget all cached blocks. Refused (False) while any block is held, as vLLM does."""
        if self.used:
            return False
        self._hash_of.clear()
        self._cached.clear()
        if self._listener is not None:
            self._listener.cleared()
        return True

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of.pop(block)
        blocks = self._cached[block_hash]
        del blocks[block]
        if not blocks:
            del self._cached[block_hash]
        if self._listener is not None:
            self._listener.removed(block_hash)
