"""Which endpoint has which prompt prefix in its cache, as far as this picker's own picks tell.

A prompt is cut into blocks of equal size, and each full block is named by a hash of itself and all before it: equal
hashes mean equal prefixes. What an endpoint was sent it is taken to hold, up to its capacity and least recently used
out first, as the servers do it themselves. They cache what they generate too, in the same memory, so this is an
estimate."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct

import msgspec
from xxhash import xxh3_64_intdigest

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.bitsets import EndpointBitset, tiers

DEFAULT_CAPACITY_BLOCKS = 4096
"""For a server that does not tell its own: 262,144 tokens at 64 a block, between what a 7B model leaves on a 24 GB card
(77k) and on a 48 GB card (454k)."""

MAX_CAPACITY_BLOCKS = 32_768
"""However much a server says to hold, 2 million tokens at 64 a block are remembered of it: the bound on memory, at some
200 bytes a block."""

FINE_BLOCKS = 128
COARSE_STRIDE = 8
"""Of a prompt's blocks the first ones are remembered each, and after them the last of every so many, standing for them
all. A hash names all that came before it, so nothing is confused; at 64 tokens a block, what a long prompt shares is
known to one part in 16, at a third of the cost."""


def block_hashes(
    seed: bytes, prompt: bytes | bytearray | memoryview, block_bytes: int, max_blocks: int
) -> tuple[int, ...]:
    """Hashes of the first `max_blocks` full blocks of `prompt`, first block first; a block that is not full is left
    out.

    Two prompts share the hash at an index if and only if (but for collisions of 64 bits) they share `seed` and all
    bytes up to that block's end. `prompt` is any contiguous buffer of bytes."""
    blocks = min(len(prompt) // block_bytes, max_blocks)
    if blocks <= 0:
        return ()
    digest = xxh3_64_intdigest(seed)
    cut = _cutter(block_bytes).iter_unpack(memoryview(prompt)[: blocks * block_bytes])
    # Each hash seeds the next one, which is what chains them.
    return tuple([digest := xxh3_64_intdigest(block, digest) for (block,) in cut])


@lru_cache(maxsize=8)
def _cutter(block_bytes: int) -> Struct:
    return Struct(f"{block_bytes}s")


class _LruBlocks:
    """What one endpoint is taken to hold, the least recently used block first, and how many blocks each stands for. A
    block is always younger than those that follow it in a prompt, so they are dropped before it, and what is held of a
    prompt is always a beginning of it."""

    __slots__ = ("bit", "blocks", "size")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.blocks: OrderedDict[int, int] = OrderedDict()
        self.size = 0
        """Sum over `blocks`."""


class SentPrompt(msgspec.Struct):
    """A prompt on its way to an endpoint, until its request has left there."""

    endpoint: Endpoint
    expected: Sequence[int]
    """Blocks of tokens that are as good as held there meanwhile."""
    unnamed: int | None
    """The last of the prompt's blocks that has come before and whose tokens are not known."""
    on_end: Callable[[], None] | None = None
    """Called once, when the request has left."""


class PrefixIndex:
    """Blocks by endpoint, and endpoints by block: the latter as sets of bits, so that a look-up touches only endpoints
    that hold something, and grows with the logarithm of the prompt."""

    def __init__(
        self,
        block_tokens: int,
        default_capacity_blocks: int = DEFAULT_CAPACITY_BLOCKS,
        max_capacity_blocks: int = MAX_CAPACITY_BLOCKS,
    ) -> None:
        """`block_tokens`: tokens that a hashed block stands for, to translate the cache sizes that servers report."""
        self._block_tokens = block_tokens
        self._default_capacity_blocks = default_capacity_blocks
        self._max_capacity_blocks = max_capacity_blocks
        self._holdings: dict[Endpoint, _LruBlocks] = {}
        self._bits = EndpointBitset()
        self._holders: dict[int, int] = {}

    def __len__(self) -> int:
        """Distinct blocks remembered of any endpoint."""
        return len(self._holders)

    def capacity_blocks(self, endpoint: Endpoint) -> int:
        """Blocks that `endpoint` can hold: the size of its KV cache where its metrics tell it."""
        metrics = endpoint.metrics
        if metrics is None or not metrics.cache_tokens:
            return self._default_capacity_blocks
        return min(self._max_capacity_blocks, metrics.cache_tokens // self._block_tokens)

    def record(self, endpoint: Endpoint, hashes: Sequence[int]) -> None:
        """`endpoint` is sent a prompt of these blocks (from `block_hashes`) and will hold them. What exceeds its
        capacity is dropped."""
        holding = self._holdings.get(endpoint) or self._admit(endpoint)
        capacity = self.capacity_blocks(endpoint)
        marks = sampled_hashes(hashes[:capacity])
        if len(marks) > FINE_BLOCKS:
            self._touch(holding, marks[FINE_BLOCKS:], COARSE_STRIDE)
            marks = marks[:FINE_BLOCKS]
        self._touch(holding, marks, 1)
        if holding.size > capacity:
            self._shrink(holding, capacity)

    def cached_blocks(self, endpoint: Endpoint, hashes: Sequence[int]) -> int:
        """How many of a prompt's blocks, from the first on, `endpoint` is known to hold."""
        holding = self._holdings.get(endpoint)
        if holding is None:
            return 0
        blocks = holding.blocks
        return depth_of(bisect_left(sampled_hashes(hashes), True, key=lambda block: block not in blocks))

    def matches(self, hashes: Sequence[int], endpoints: Sequence[Endpoint]) -> Sequence[int]:
        """For each of `endpoints` how many of a prompt's blocks, from the first on, it is known to hold."""
        found: dict[Endpoint | None, int] = {}
        for mask, marks in tiers(sampled_hashes(hashes), self._holders.get):
            found.update(dict.fromkeys(self._bits.of(mask), depth_of(marks)))
        if not found:
            return [0] * len(endpoints)
        depth = found.get
        return [depth(endpoint, 0) for endpoint in endpoints]

    def holders(self, hashes: Sequence[int], most: int) -> list[Endpoint]:
        """The endpoints that hold the most of a prompt, at most `most` of them, most first."""
        found: list[Endpoint] = []
        for mask, _ in reversed(list(tiers(sampled_hashes(hashes), self._holders.get))):
            found += [endpoint for endpoint in self._bits.of(mask) if endpoint is not None][: most - len(found)]
        return found

    def reported_blocks(self, endpoint: Endpoint) -> int | None:
        """Blocks of tokens that `endpoint` itself says to hold; None where it is not listened to."""
        return None

    def fully_reported(self, endpoint: Endpoint) -> bool:
        """Whether those are all that it holds."""
        return False

    def sent(self, endpoint: Endpoint, hashes: Sequence[int]) -> SentPrompt | None:
        """As `record`. What is returned is to be given to `ended`."""
        self.record(endpoint, hashes)
        return None

    def ended(self, sent: SentPrompt) -> None:
        """The request has left its endpoint, served or not."""

    def forget(self, endpoint: Endpoint) -> None:
        """`endpoint` is gone, or has lost its cache."""
        holding = self._holdings.pop(endpoint, None)
        if holding is None:
            return
        self._shrink(holding, 0)
        self._bits.free(holding.bit)

    def _admit(self, endpoint: Endpoint) -> _LruBlocks:
        holding = self._holdings[endpoint] = _LruBlocks(self._bits.take(endpoint))
        return holding

    def _touch(self, holding: _LruBlocks, marks: Sequence[int], stands_for: int) -> None:
        """Have `holding` hold `marks`, the first of them as the youngest."""
        blocks, bit, holders = holding.blocks, holding.bit, self._holders
        holders_of, rejuvenate = holders.get, blocks.move_to_end
        held = len(blocks)
        for block in reversed(marks):
            if block in blocks:
                rejuvenate(block)
            else:
                blocks[block] = stands_for
                holders[block] = holders_of(block, 0) | bit
        holding.size += stands_for * (len(blocks) - held)

    def _shrink(self, holding: _LruBlocks, capacity: int) -> None:
        """Drop the oldest blocks until the others fit."""
        size, drop, bit, holders = holding.size, holding.blocks.popitem, holding.bit, self._holders
        while size > capacity:
            block, stands_for = drop(last=False)
            size -= stands_for
            mask = holders[block]
            if mask == bit:
                del holders[block]
            else:
                holders[block] = mask ^ bit
        holding.size = size


def sampled_hashes(hashes: Sequence[int]) -> Sequence[int]:
    """Those of a prompt's blocks that are remembered; see FINE_BLOCKS."""
    if len(hashes) <= FINE_BLOCKS:
        return hashes
    return (*hashes[:FINE_BLOCKS], *hashes[FINE_BLOCKS + COARSE_STRIDE - 1 :: COARSE_STRIDE])


def depth_of(marks: int) -> int:
    """How many blocks a prompt's first `marks` remembered ones stand for."""
    return marks if marks <= FINE_BLOCKS else FINE_BLOCKS + COARSE_STRIDE * (marks - FINE_BLOCKS)
