"""The paged KV cache by count and content: what is not hashed has no identity worth keeping.

The rules are the mock's (`vllm_mock.engine.blocks`), where they are explained. Unhashed free blocks are always in front
of the hashed ones there, so a count stands for them here."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class Block:
    """A block with a hash, held or free."""

    __slots__ = ("holders", "key", "twin")

    def __init__(self, key: int, holders: int) -> None:
        self.key = key
        self.holders = holders
        self.twin: Block | None = None
        """The next younger block of the same content."""


class BlockPool:
    """All usable blocks of a cache, the null block left out."""

    def __init__(self, num_gpu_blocks: int) -> None:
        self.usable = num_gpu_blocks - 1
        self._blank = self.usable
        self._free: OrderedDict[Block, None] = OrderedDict()
        self._cached: dict[int, Block] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds, cached or not."""
        return self._blank + len(self._free)

    def find(self, keys: Iterable[int]) -> list[Block]:
        """The cached blocks of the longest prefix of `keys`."""
        found: list[Block] = []
        cached = self._cached.get
        for key in keys:
            block = cached(key)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: Sequence[Block]) -> None:
        """One holder more for cached blocks."""
        for block in blocks:
            if not block.holders:
                del self._free[block]
            block.holders += 1

    def take(self, count: int) -> None:
        """`count` blocks, unhashed first, then the least recently freed; there must be as many."""
        blank = min(count, self._blank)
        self._blank -= blank
        for _ in range(count - blank):
            self._forget(self._free.popitem(last=False)[0])

    def cache(self, keys: Iterable[int]) -> list[Block]:
        """Taken blocks are full: they get their hashes and can be found from now on, held once."""
        blocks: list[Block] = []
        cached = self._cached
        for key in keys:
            block = Block(key, 1)
            first = cached.setdefault(key, block)
            if first is not block:
                while first.twin is not None:
                    first = first.twin
                first.twin = block
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[Block], blank: int) -> None:
        """One holder less for a sequence's hashed blocks, in their order there, and the `blank` ones after them."""
        free = self._free
        for block in reversed(blocks):
            block.holders -= 1
            if not block.holders:
                free[block] = None
        self._blank += blank

    def _forget(self, block: Block) -> None:
        first = self._cached[block.key]
        if first is block:
            if block.twin is None:
                del self._cached[block.key]
            else:
                self._cached[block.key] = block.twin
            return
        while first.twin is not block:
            assert first.twin is not None, "a cached block is among the twins of its key"
            first = first.twin
        first.twin = block.twin
