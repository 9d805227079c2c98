"""Which token blocks the endpoints hold, as their KV events report.

Servers may hash differently (vLLM seeds its hashes per process). A block is therefore identified here by a hash of its
tokens and all tokens before it, which the events contain.
"""

from array import array
from collections.abc import Iterable, Sequence, Set

from xxhash import xxh3_64_intdigest

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.bitsets import EndpointBitset, tiers
from picker.endpoints.prefix_cache.kv_events.messages import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EngineHash,
    Event,
)

MAX_BLOCKS = 131_072
"""Limit on the hashes and blocks of one endpoint: 2 million tokens at 16 a block. Bounds the memory. Blocks that a
larger cache stores beyond it are not tracked."""

MAX_BLOCKS_OF_BATCH = 32_768
"""Limit on the blocks stored or removed by one batch: half a million tokens at 16 a block, which no step of a server
computes. To apply them takes some 20 ms."""

MAX_HASH_BYTES = 64
"""Limit on the length of an engine's hash. vLLM's have at most 32 (SHA-256)."""

FOLLOWED_KINDS = (None, "full_attention", "mla_attention", "sink_full_attention")
"""The layers of a hybrid model that keep whole prefixes. Other layers evict blocks outside of a window."""


def chain_root(block_size: int, lora: str | None) -> int:
    """The start of a sequence's hash chain. Adapters share no blocks, and blocks of different sizes do not compare."""
    return xxh3_64_intdigest(f"{block_size}\0{lora or ''}".encode())


def token_chain(tokens: Sequence[int], block_size: int, parent: int) -> list[int]:
    """Hashes of the full blocks of `tokens` that follow `parent`. Raises ValueError for a token id out of range."""
    try:
        data = memoryview(array("q", tokens)).cast("B")
    except (OverflowError, TypeError) as error:
        raise ValueError(f"token ids: {error}") from None
    width = block_size * 8
    names: list[int] = []
    for start in range(0, len(tokens) // block_size * width, width):
        parent = xxh3_64_intdigest(data[start : start + width], parent)
        names.append(parent)
    return names


class _Cache:
    """The state of one endpoint's cache."""

    __slots__ = ("bit", "block_size", "complete", "expected", "group", "names", "stored")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.complete = False
        self.block_size: int | None = None
        self.group: int | None = None
        self.names: dict[EngineHash, int] = {}
        self.stored: dict[int, int] = {}
        """Copies of each block. Two requests that compute the same block at the same time leave two."""
        self.expected: dict[int, int] = {}
        """Number of requests there that need the block."""


class ReportedBlocks:
    """The reported blocks of all followed endpoints."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        """`max_blocks`: limit per endpoint."""
        self._max_blocks = max_blocks
        self._bits = EndpointBitset()
        self._caches: dict[Endpoint, _Cache] = {}
        self._holders: dict[int, int] = {}
        self._complete: dict[int, Set[Endpoint]] = {}
        """Result of `all_known` by block size. Empty after a change."""

    def __len__(self) -> int:
        """Number of distinct blocks of all endpoints."""
        return len(self._holders)

    def follow(self, endpoint: Endpoint) -> None:
        """Start to track the blocks of `endpoint`."""
        if endpoint not in self._caches:
            self._caches[endpoint] = _Cache(self._bits.take(endpoint))
            self._complete.clear()

    def forget(self, endpoint: Endpoint) -> None:
        """Remove `endpoint`, which has left its pools."""
        cache = self._caches.pop(endpoint, None)
        if cache is None:
            return
        for name in cache.stored.keys() | cache.expected.keys():
            self._drop(cache, name)
        self._bits.free(cache.bit)
        self._complete.clear()

    def restart(self, endpoint: Endpoint, *, empty: bool) -> None:
        """Drop the reported blocks of `endpoint`. Its cache is `empty`, or its content is unknown."""
        cache = self._caches[endpoint]
        for name in cache.stored.keys() - cache.expected.keys():
            self._drop(cache, name)
        cache.names.clear()
        cache.stored.clear()
        cache.complete = empty
        cache.group = cache.block_size = None
        self._complete.clear()

    def block_size(self, endpoint: Endpoint) -> int | None:
        """Tokens per block there. None if it has reported no block."""
        cache = self._caches.get(endpoint)
        return cache.block_size if cache is not None else None

    def stored_blocks(self, endpoint: Endpoint) -> int | None:
        """Number of blocks reported there. None for an endpoint that is not followed."""
        cache = self._caches.get(endpoint)
        return len(cache.stored) if cache is not None else None

    def knows_all(self, endpoint: Endpoint) -> bool:
        """Whether all blocks that it holds are known."""
        cache = self._caches.get(endpoint)
        return cache is not None and cache.complete

    def all_known(self, block_size: int) -> Set[Endpoint]:
        """The endpoints of which all blocks of this size are known, empty caches included."""
        if block_size not in self._complete:
            self._complete[block_size] = {
                endpoint
                for endpoint, cache in self._caches.items()
                if cache.complete and cache.block_size in (None, block_size)
            }
        return self._complete[block_size]

    def apply(self, endpoint: Endpoint, events: Iterable[Event]) -> bool:
        """Apply `events` in their order. Returns whether one of them cleared the cache. Raises ValueError for events
        that contradict each other or exceed a limit."""
        cache, cleared = self._caches[endpoint], False
        left = MAX_BLOCKS_OF_BATCH
        for event in events:
            if not isinstance(event, AllBlocksCleared):
                left -= len(event.block_hashes)
                if left < 0:
                    raise ValueError(f"a batch of more than {MAX_BLOCKS_OF_BATCH} blocks")
            match event:
                case BlockStored():
                    self._stored(cache, event)
                case BlockRemoved():
                    if event.medium in (None, "GPU") and event.group_idx in (None, cache.group):
                        self._removed(cache, event)
                case AllBlocksCleared():
                    self.restart(endpoint, empty=True)
                    cleared = True
        return cleared

    def depths(self, chain: Sequence[int]) -> dict[Endpoint | None, int]:
        """The number of blocks of the prefix of `chain` that each endpoint holds, for those that hold any."""
        found: dict[Endpoint | None, int] = {}
        for mask, depth in tiers(chain, self._holders.get):
            found.update(dict.fromkeys(self._bits.of(mask), depth))
        return found

    def depth(self, endpoint: Endpoint, chain: Sequence[int]) -> int:
        """Number of blocks of the prefix of `chain` that are stored there. Blocks that are only expected do not
        count."""
        cache = self._caches.get(endpoint)
        stored = cache.stored if cache is not None else {}
        return next((number for number, name in enumerate(chain) if name not in stored), len(chain))

    def expect(self, endpoint: Endpoint, names: Iterable[int]) -> None:
        """Count blocks as held while a request that needs them is on its way to `endpoint` or runs there.

        None of them is evicted before the request ends. Call `settle` at its end.
        """
        cache = self._caches.get(endpoint)
        if cache is None:
            return
        expected, stored = cache.expected, cache.stored
        for name in names:
            count = expected.get(name, 0)
            expected[name] = count + 1
            if not count and name not in stored:
                self._add(cache, name)

    def settle(self, endpoint: Endpoint, names: Iterable[int]) -> None:
        """Undo `expect` at the end of the request."""
        cache = self._caches.get(endpoint)
        if cache is None:
            return
        expected, stored = cache.expected, cache.stored
        for name in names:
            count = expected[name] - 1
            if count:
                expected[name] = count
                continue
            del expected[name]
            if name not in stored:
                self._drop(cache, name)

    def _stored(self, cache: _Cache, event: BlockStored) -> None:
        if event.medium not in (None, "GPU") or event.kv_cache_spec_kind not in FOLLOWED_KINDS or not event.is_text:
            return
        if event.block_size < 1 or len(event.token_ids) != event.block_size * len(event.block_hashes):
            raise ValueError(
                f"{len(event.block_hashes)} blocks of {event.block_size} tokens with {len(event.token_ids)} tokens"
            )
        if not cache.names:
            cache.group, cache.block_size = event.group_idx, event.block_size
            self._complete.clear()
        elif event.group_idx != cache.group:
            return
        names = cache.names
        if event.parent_block_hash is None:
            parent = chain_root(event.block_size, event.lora_name)
        elif (parent := names.get(event.parent_block_hash)) is None:
            # The sequence began before the subscription, or with blocks beyond the limit.
            return
        if len(names) + len(event.block_hashes) > self._max_blocks:
            cache.complete = False
            self._complete.clear()
            return
        stored, expected = cache.stored, cache.expected
        chain = token_chain(event.token_ids, event.block_size, parent)
        for engine_hash, name in zip(event.block_hashes, chain, strict=True):
            known = names.get(engine_hash)
            if known is None:
                if isinstance(engine_hash, bytes) and len(engine_hash) > MAX_HASH_BYTES:
                    raise ValueError(f"a hash of {len(engine_hash)} bytes")
                names[engine_hash] = name
            elif known != name:
                # The block that was stored under it would never be removed.
                raise ValueError("one hash for two different blocks")
            count = stored.get(name, 0)
            stored[name] = count + 1
            if not count and name not in expected:
                self._add(cache, name)

    def _removed(self, cache: _Cache, event: BlockRemoved) -> None:
        names, stored = cache.names, cache.stored
        for engine_hash in event.block_hashes:
            name = names.get(engine_hash)
            if name is None:
                continue
            count = stored.get(name, 0) - 1
            if count < 0:
                raise ValueError("two hashes for one block, which the other one has removed")
            if count:
                stored[name] = count
                continue
            del stored[name]
            del names[engine_hash]
            if name not in cache.expected:
                self._drop(cache, name)

    def _add(self, cache: _Cache, name: int) -> None:
        self._holders[name] = self._holders.get(name, 0) | cache.bit

    def _drop(self, cache: _Cache, name: int) -> None:
        others = self._holders[name] & ~cache.bit
        if others:
            self._holders[name] = others
        else:
            del self._holders[name]
