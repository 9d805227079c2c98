"""The paged KV cache by count and content: what is not hashed has no identity worth keeping, and blocks that came and
go together are one run.

The rules are the mock's (`vllm_mock.engine.blocks`), where they are explained. Unhashed free blocks are always in front
of the hashed ones there, so a count stands for them here. A sequence gives its blocks back from its end on, so what is
evicted of a run is its end, too, and a run stays one."""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from operator import attrgetter

from simulator.workload.content import MAX_BLOCKS


class Run:
    """Blocks with hashes of consecutive keys, all held by the same number of sequences."""

    __slots__ = ("count", "holders", "key", "rest")

    def __init__(self, key: int, count: int, holders: int, rest: "Run | None" = None) -> None:
        self.key = key
        """Of the first block."""
        self.count = count
        self.holders = holders
        self.rest = rest
        """What was split off its end while it was held: those who hold it since before hold that too."""


Found = tuple[Run, int]
"""A cached run and how many of its blocks, from the first on, are those in question."""
Held = tuple[Run, int]
"""A run as a sequence got it, and its blocks then; it may have been split since."""

_KEY = attrgetter("key")


class BlockPool:
    """All usable blocks of a cache, the null block left out."""

    def __init__(self, num_gpu_blocks: int) -> None:
        self.usable = num_gpu_blocks - 1
        self._blank = self.usable
        self._free: OrderedDict[Run, None] = OrderedDict()
        self._hashed_free = 0
        """Blocks in those."""
        self._cached: dict[int, list[Run]] = {}
        """By piece of content, in the order of keys: the blocks that a look-up finds."""
        self._twins: dict[int, list[Run]] = {}
        """By key: younger blocks of the same content, each a run of its own. There are few, ever."""

    @property
    def free(self) -> int:
        """Blocks that nobody holds, cached or not."""
        return self._blank + self._hashed_free

    def find(self, spans: Iterable[range]) -> list[Found]:
        """The cached runs of the longest prefix of a sequence's keys (`Content.spans` from its first block on)."""
        found: list[Found] = []
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

    def hold(self, found: Iterable[Found]) -> list[Held]:
        """One holder more for what was found."""
        held: list[Held] = []
        for run, count in found:
            part = run
            if count < run.count:
                part = self._cut(run, count) if run.holders else self._head(run, count)
            elif not run.holders:
                del self._free[run]
            if not part.holders:
                self._hashed_free -= count
            part.holders += 1
            held.append((part, count))
        return held

    def take(self, count: int) -> None:
        """`count` blocks, unhashed first, then the least recently freed; there must be as many."""
        blank = min(count, self._blank)
        self._blank -= blank
        count -= blank
        while count:
            run = next(iter(self._free))
            evicted = min(count, run.count)
            if evicted == run.count:
                del self._free[run]
            self._hashed_free -= evicted
            self._forget(run, evicted)
            count -= evicted

    def cache(self, spans: Iterable[range]) -> list[Held]:
        """Taken blocks are full: they get their hashes and can be found from now on, held once."""
        held: list[Held] = []
        for span in spans:
            runs = self._cached.setdefault(span.start // MAX_BLOCKS, [])
            if not runs or runs[-1].key + runs[-1].count <= span.start:
                run = Run(span.start, len(span), 1)
                runs.append(run)
                held.append((run, run.count))
            else:
                held += [(self._beside(runs, key), 1) for key in span]
        return held

    def release(self, held: Sequence[Held], blank: int) -> None:
        """One holder less for a sequence's hashed blocks, in their order there, and the `blank` ones after them."""
        for run, count in reversed(held):
            for part in reversed(_parts(run, count)):
                part.holders -= 1
                if not part.holders:
                    self._free[part] = None
                    self._hashed_free += part.count
        self._blank += blank

    def _cut(self, run: Run, count: int) -> Run:
        """Leave a held run its first `count` blocks; the others are a run after it."""
        run.rest = rest = Run(run.key + count, run.count - count, run.holders, run.rest)
        run.count = count
        runs = self._cached[run.key // MAX_BLOCKS]
        runs.insert(runs.index(run) + 1, rest)
        return run

    def _head(self, run: Run, count: int) -> Run:
        """The first `count` blocks of a free run, as one that nobody holds yet; the others keep their place among the
        free ones."""
        head = Run(run.key, count, 0)
        runs = self._cached[run.key // MAX_BLOCKS]
        runs.insert(runs.index(run), head)
        run.key += count
        run.count -= count
        return head

    def _beside(self, runs: list[Run], key: int) -> Run:
        """A block among older ones of its piece, perhaps of the same content as one of them."""
        block = Run(key, 1, 1)
        if any(run.key <= key < run.key + run.count for run in runs):
            self._twins.setdefault(key, []).append(block)
        else:
            insort(runs, block, key=_KEY)
        return block

    def _forget(self, run: Run, count: int) -> None:
        """The last `count` blocks of a run are evicted; their oldest twins are found in their stead."""
        run.count -= count
        if self._twins and run in self._twins.get(run.key, ()):
            self._untwin(run.key, run)
            return
        runs = self._cached[run.key // MAX_BLOCKS]
        if not run.count:
            runs.remove(run)
        if self._twins:
            end = run.key + run.count
            for key in range(end, end + count):
                if key in self._twins:
                    insort(runs, self._untwin(key, self._twins[key][0]), key=_KEY)
        if not runs:
            del self._cached[run.key // MAX_BLOCKS]

    def _untwin(self, key: int, block: Run) -> Run:
        twins = self._twins[key]
        twins.remove(block)
        if not twins:
            del self._twins[key]
        return block


def _parts(run: Run, count: int) -> list[Run]:
    """The runs that `count` blocks held from `run` on are now."""
    parts = [run]
    while (count := count - run.count) > 0:
        assert run.rest is not None, "a held run that has become shorter was split"
        run = run.rest
        parts.append(run)
    return parts
