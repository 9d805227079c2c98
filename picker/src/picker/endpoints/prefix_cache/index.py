"""Estimates which endpoint has which prompt prefix in its cache, from this picker's own picks.

A prompt is cut into blocks of equal size. Each full block is identified by a hash of itself and all blocks before it,
so equal hashes mean equal prefixes. An endpoint is assumed to hold what it was sent, up to its capacity. The least
recently used blocks are evicted first, as on the servers. Servers also cache what they generate, in the same memory, so
this is an estimate.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from struct import Struct

import msgspec
from xxhash import xxh3_64_intdigest

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.bitsets import EndpointBitset, tiers

DEFAULT_CAPACITY_BLOCKS = 4096
"""For a server that does not report its capacity: 262,144 tokens at 64 a block. A 7B model leaves 77k on a 24 GB card
and 454k on a 48 GB card."""

MAX_CAPACITY_BLOCKS = 32_768
"""Limit per server, whatever capacity it reports: 2 million tokens at 64 a block. Bounds the memory, at some 200 bytes
a block."""

FINE_BLOCKS = 128
"""The first blocks of a prompt, of which each is stored."""

COARSE_STRIDE = 8
"""After these, one of so many blocks is stored and represents them all. A hash identifies everything before it, so no
prefixes are confused. At 64 tokens a block, the shared part of a long prompt is known to one part in 16, at a third of
the cost."""


def block_hashes(
    seed: bytes, prompt: bytes | bytearray | memoryview, block_bytes: int, max_blocks: int
) -> tuple[int, ...]:
    """Hashes of the first `max_blocks` full blocks of `prompt`, first block first. A partial block is left out.

    The hashes of two prompts at an index are equal if and only if `seed` and all bytes up to that block's end are
    equal. Collisions of 64 bits are the exception. `prompt` is any contiguous buffer of bytes.
    """
    blocks = min(len(prompt) // block_bytes, max_blocks)
    if blocks <= 0:
        return ()
    digest = xxh3_64_intdigest(seed)
    blocks_of = _cutter(block_bytes).iter_unpack(memoryview(prompt)[: blocks * block_bytes])
    # Each hash is the seed of the next one.
    return tuple([digest := xxh3_64_intdigest(block, digest) for (block,) in blocks_of])


@lru_cache(maxsize=8)
def _cutter(block_bytes: int) -> Struct:
    return Struct(f"{block_bytes}s")


class _LruBlocks:
    """The blocks that one endpoint is assumed to hold, least recently used first, each with the number of blocks that
    it represents.

    A block is always more recent than its successors in a prompt, so they are evicted before it. The held blocks of a
    prompt are therefore always a prefix of it.
    """

    __slots__ = ("bit", "blocks", "size")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.blocks: OrderedDict[int, int] = OrderedDict()
        self.size = 0
        """Sum over `blocks`."""


class SentPrompt(msgspec.Struct):
    """A prompt on its way to an endpoint, until its request ends there."""

    endpoint: Endpoint
    expected: Sequence[int]
    """Token blocks that count as held there meanwhile."""
    unnamed: int | None
    """The last block of the prompt that was sent before and is not mapped to tokens."""
    on_end: Callable[[], None] | None = None
    """Called once, at the end of the request."""


class PrefixIndex:
    """Blocks by endpoint, and endpoints by block.

    The latter are bitsets, so a lookup touches only endpoints that hold something. Its cost grows with the logarithm of
    the prompt's length.
    """

    def __init__(
        self,
        block_tokens: int,
        default_capacity_blocks: int = DEFAULT_CAPACITY_BLOCKS,
        max_capacity_blocks: int = MAX_CAPACITY_BLOCKS,
    ) -> None:
        """`block_tokens`: tokens of a hashed block, to convert the cache sizes that servers report."""
        self._block_tokens = block_tokens
        self._default_capacity_blocks = default_capacity_blocks
        self._max_capacity_blocks = max_capacity_blocks
        self._holdings: dict[Endpoint, _LruBlocks] = {}
        self._bits = EndpointBitset()
        self._holders: dict[int, int] = {}

    def __len__(self) -> int:
        """Number of distinct blocks of all endpoints."""
        return len(self._holders)

    def capacity_blocks(self, endpoint: Endpoint) -> int:
        """Blocks that `endpoint` can hold: the size of its KV cache if its metrics report it."""
        metrics = endpoint.metrics
        if metrics is None or not metrics.cache_tokens:
            return self._default_capacity_blocks
        return min(self._max_capacity_blocks, metrics.cache_tokens // self._block_tokens)

    def record(self, endpoint: Endpoint, hashes: Sequence[int]) -> None:
        """Record that `endpoint` is sent a prompt of these blocks (from `block_hashes`) and will hold them. Evicts
        blocks beyond its capacity."""
        self.record_sampled(endpoint, sampled_hashes(hashes[: self.capacity_blocks(endpoint)]))

    def record_sampled(self, endpoint: Endpoint, sampled: Sequence[int]) -> None:
        """As `record`, with the result of `sampled_hashes`."""
        holding = self._holdings.get(endpoint) or self._admit(endpoint)
        capacity = self.capacity_blocks(endpoint)
        sampled = sampled[: _sampled_of(capacity)]
        if len(sampled) > FINE_BLOCKS:
            self._touch(holding, sampled[FINE_BLOCKS:], COARSE_STRIDE)
            sampled = sampled[:FINE_BLOCKS]
        self._touch(holding, sampled, 1)
        if holding.size > capacity:
            self._shrink(holding, capacity)

    def cached_blocks(self, endpoint: Endpoint, hashes: Sequence[int]) -> int:
        """Length in blocks of the prompt's prefix that `endpoint` holds."""
        holding = self._holdings.get(endpoint)
        if holding is None:
            return 0
        blocks = holding.blocks
        return depth_of(bisect_left(sampled_hashes(hashes), True, key=lambda block: block not in blocks))

    def matches(self, hashes: Sequence[int], endpoints: Sequence[Endpoint]) -> Sequence[int]:
        """Length in blocks of the prompt's prefix that each of `endpoints` holds."""
        found: dict[Endpoint | None, int] = {}
        for mask, depth in tiers(sampled_hashes(hashes), self._holders.get):
            found.update(dict.fromkeys(self._bits.of(mask), depth_of(depth)))
        if not found:
            return [0] * len(endpoints)
        depths = found.get
        return [depths(endpoint, 0) for endpoint in endpoints]

    def holders(self, hashes: Sequence[int], most: int) -> list[Endpoint]:
        """At most `most` endpoints that hold a prefix of a prompt, longest prefix first."""
        found: list[Endpoint] = []
        for mask, _ in reversed(list(tiers(sampled_hashes(hashes), self._holders.get))):
            found += [endpoint for endpoint in self._bits.of(mask) if endpoint is not None][: most - len(found)]
        return found

    def reported_blocks(self, endpoint: Endpoint) -> int | None:
        """Number of token blocks that `endpoint` reports to hold. None without a subscription to its KV events."""
        return None

    def fully_reported(self, endpoint: Endpoint) -> bool:
        """Whether those are all blocks that it holds."""
        return False

    def sent(self, endpoint: Endpoint, hashes: Sequence[int]) -> SentPrompt | None:
        """As `record`. Pass the result to `ended`."""
        self.record(endpoint, hashes)
        return None

    def ended(self, sent: SentPrompt) -> None:
        """The request has ended at its endpoint, served or not."""

    def held(self, endpoint: Endpoint) -> Sequence[tuple[int, int]]:
        """Returns the stored hashes of `endpoint`, the most recently used first, each with the number of blocks that it
        represents. Any beginning of this sequence consists of beginnings of prompts."""
        holding = self._holdings.get(endpoint)
        return list(reversed(holding.blocks.items())) if holding is not None else ()

    def restore(self, endpoint: Endpoint, blocks: Iterable[tuple[int, int]]) -> None:
        """Add what `held` of another index returned, as used less recently than everything stored here. It may be added
        in several parts, in their order. Hashes beyond the capacity are discarded."""
        holding = self._holdings.get(endpoint) or self._admit(endpoint)
        capacity, bit, known, holders = self.capacity_blocks(endpoint), holding.bit, holding.blocks, self._holders
        for block, represents in blocks:
            if block in known:
                continue
            if holding.size + represents > capacity:
                return
            known[block] = represents
            known.move_to_end(block, last=False)
            holders[block] = holders.get(block, 0) | bit
            holding.size += represents

    def adopt(self, other: "PrefixIndex") -> None:
        """Replace the estimate by that of `other`, which from now on shares it. Requests in flight may still use
        `other`."""
        self._holdings, self._bits, self._holders = other._holdings, other._bits, other._holders

    def forget(self, endpoint: Endpoint) -> None:
        """Remove `endpoint`, which has left or has lost its cache."""
        holding = self._holdings.pop(endpoint, None)
        if holding is None:
            return
        self._shrink(holding, 0)
        self._bits.free(holding.bit)

    def _admit(self, endpoint: Endpoint) -> _LruBlocks:
        holding = self._holdings[endpoint] = _LruBlocks(self._bits.take(endpoint))
        return holding

    def _touch(self, holding: _LruBlocks, sampled: Sequence[int], represented: int) -> None:
        """Make `sampled` the most recent blocks of `holding`, the first one as the most recent."""
        blocks, bit, holders = holding.blocks, holding.bit, self._holders
        holders_of, make_recent = holders.get, blocks.move_to_end
        held = len(blocks)
        for block in reversed(sampled):
            if block in blocks:
                make_recent(block)
            else:
                blocks[block] = represented
                holders[block] = holders_of(block, 0) | bit
        holding.size += represented * (len(blocks) - held)

    def _shrink(self, holding: _LruBlocks, capacity: int) -> None:
        """Evict the least recent blocks until the others fit."""
        size, drop, bit, holders = holding.size, holding.blocks.popitem, holding.bit, self._holders
        while size > capacity:
            block, represented = drop(last=False)
            size -= represented
            mask = holders[block]
            if mask == bit:
                del holders[block]
            else:
                holders[block] = mask ^ bit
        holding.size = size


def sampled_hashes(hashes: Sequence[int]) -> Sequence[int]:
    """The hashes of a prompt that are stored; see FINE_BLOCKS and COARSE_STRIDE."""
    if len(hashes) <= FINE_BLOCKS:
        return hashes
    return (*hashes[:FINE_BLOCKS], *hashes[FINE_BLOCKS + COARSE_STRIDE - 1 :: COARSE_STRIDE])


def depth_of(sampled: int) -> int:
    """Number of blocks that a prompt's first `sampled` stored hashes represent."""
    return sampled if sampled <= FINE_BLOCKS else FINE_BLOCKS + COARSE_STRIDE * (sampled - FINE_BLOCKS)


def _sampled_of(blocks: int) -> int:
    """Number of hashes that are stored of a prompt's first `blocks`: the inverse of `depth_of`."""
    return blocks if blocks <= FINE_BLOCKS else FINE_BLOCKS + (blocks - FINE_BLOCKS) // COARSE_STRIDE
