"""The paged KV cache by count and content. Unhashed blocks are counted, and hashed blocks are grouped into runs.

`vllm_mock.engine.blocks` explains the rules. There, unhashed free blocks always precede the hashed ones in the free
queue, so a count represents them here. A sequence releases its blocks from its end on. So eviction shortens a run at
its end, and a run stays contiguous.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from operator import attrgetter

from simulator.workload.content import MAX_BLOCKS


class BlockRun:
    """Hashed blocks with consecutive keys, all held by the same number of sequences."""

    __slots__ = ("count", "holders", "key", "rest")

    def __init__(self, key: int, count: int, holders: int, rest: "BlockRun | None" = None) -> None:
        self.key = key
        """Key of the first block."""
        self.count = count
        self.holders = holders
        self.rest = rest
        """The run that was split off its end while it was held. Sequences that held this run then hold that one too."""


FoundRun = tuple[BlockRun, int]
"""A cached run, and how many of its first blocks were found."""
HeldRun = tuple[BlockRun, int]
"""A run, and its number of blocks when a sequence began to hold it. It may have been split since."""

_KEY = attrgetter("key")


class BlockPool:
    """All usable blocks of a cache, without the null block."""

    def __init__(self, num_gpu_blocks: int) -> None:
        self.usable = num_gpu_blocks - 1
        self._unhashed_free = self.usable
        self._free: OrderedDict[BlockRun, None] = OrderedDict()
        self._hashed_free = 0
        """Number of blocks in the runs of `_free`."""
        self._cached: dict[int, list[BlockRun]] = {}
        """The runs that a look-up finds, by piece of content and in the order of keys."""
        self._duplicates: dict[int, list[BlockRun]] = {}
        """Younger blocks with the content of a cached one, by key. Each is a run of one block. They are rare."""

    @property
    def free(self) -> int:
        """Number of blocks that no sequence holds, cached or not."""
        return self._unhashed_free + self._hashed_free

    def find(self, spans: Iterable[range]) -> list[FoundRun]:
        """Return the cached runs of a sequence's longest prefix. `spans` is `Content.spans` from its first block on."""
        found: list[FoundRun] = []
        for span in spans:
            key, end = span.start, span.stop
            for run in self._cached.get(key // MAX_BLOCKS, ()):
                if run.key != key:
                    break
                count = min(run.count, end - key)
                found.append((run, count))
                key += count
                if key == end:
                    break
            if key < end:
                break
        return found

    def hold(self, found: Iterable[FoundRun]) -> list[HeldRun]:
        """Add a holder to the blocks that `find` returned."""
        held: list[HeldRun] = []
        for run, count in found:
            part = run
            if count < run.count:
                part = self._split_held(run, count) if run.holders else self._split_free(run, count)
            elif not run.holders:
                del self._free[run]
            if not part.holders:
                self._hashed_free -= count
            part.holders += 1
            held.append((part, count))
        return held

    def take(self, count: int) -> None:
        """Allocate `count` blocks: unhashed ones first, then the least recently released. There must be enough."""
        unhashed = min(count, self._unhashed_free)
        self._unhashed_free -= unhashed
        count -= unhashed
        while count:
            run = next(iter(self._free))
            evicted = min(count, run.count)
            if evicted == run.count:
                del self._free[run]
            self._hashed_free -= evicted
            self._evict(run, evicted)
            count -= evicted

    def cache(self, spans: Iterable[range]) -> list[HeldRun]:
        """Hash allocated blocks that are full. A look-up finds them from then on, and one sequence holds them."""
        held: list[HeldRun] = []
        for span in spans:
            runs = self._cached.setdefault(span.start // MAX_BLOCKS, [])
            if not runs or runs[-1].key + runs[-1].count <= span.start:
                run = BlockRun(span.start, len(span), 1)
                runs.append(run)
                held.append((run, run.count))
            else:
                held += [(self._insert_block(runs, key), 1) for key in span]
        return held

    def release(self, held: Sequence[HeldRun], unhashed: int) -> None:
        """Remove a holder from a sequence's hashed blocks, in their order there, and free its `unhashed` blocks."""
        for run, count in reversed(held):
            for part in reversed(_parts(run, count)):
                part.holders -= 1
                if not part.holders:
                    self._free[part] = None
                    self._hashed_free += part.count
        self._unhashed_free += unhashed

    def _split_held(self, run: BlockRun, count: int) -> BlockRun:
        """Split a held run after its first `count` blocks. The others become a run after it."""
        run.rest = rest = BlockRun(run.key + count, run.count - count, run.holders, run.rest)
        run.count = count
        runs = self._cached[run.key // MAX_BLOCKS]
        runs.insert(runs.index(run) + 1, rest)
        return run

    def _split_free(self, run: BlockRun, count: int) -> BlockRun:
        """Split the first `count` blocks off a free run. The others keep their position in the free queue."""
        head = BlockRun(run.key, count, 0)
        runs = self._cached[run.key // MAX_BLOCKS]
        runs.insert(runs.index(run), head)
        run.key += count
        run.count -= count
        return head

    def _insert_block(self, runs: list[BlockRun], key: int) -> BlockRun:
        """Add a block to older runs of its piece. It is a duplicate if one of them has its key."""
        block = BlockRun(key, 1, 1)
        if any(run.key <= key < run.key + run.count for run in runs):
            self._duplicates.setdefault(key, []).append(block)
        else:
            insort(runs, block, key=_KEY)
        return block

    def _evict(self, run: BlockRun, count: int) -> None:
        """Evict the last `count` blocks of a run. Look-ups find their oldest duplicates instead."""
        run.count -= count
        if self._duplicates and run in self._duplicates.get(run.key, ()):
            self._remove_duplicate(run.key, run)
            return
        runs = self._cached[run.key // MAX_BLOCKS]
        if not run.count:
            runs.remove(run)
        if self._duplicates:
            end = run.key + run.count
            for key in range(end, end + count):
                if key in self._duplicates:
                    insort(runs, self._remove_duplicate(key, self._duplicates[key][0]), key=_KEY)
        if not runs:
            del self._cached[run.key // MAX_BLOCKS]

    def _remove_duplicate(self, key: int, block: BlockRun) -> BlockRun:
        duplicates = self._duplicates[key]
        duplicates.remove(block)
        if not duplicates:
            del self._duplicates[key]
        return block


def _parts(run: BlockRun, count: int) -> list[BlockRun]:
    """Return the runs into which the `count` blocks held from `run` on have been split."""
    parts = [run]
    while (count := count - run.count) > 0:
        assert run.rest is not None, "a held run becomes shorter only by a split"
        run = run.rest
        parts.append(run)
    return parts
