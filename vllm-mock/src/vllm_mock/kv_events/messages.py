"""Wire format of KV events, in vLLM's current and earlier encoding.

A batch is an array: [unix seconds, events, data-parallel rank]. Since vLLM 0.24 (`v1-current`) its events are maps with
a `type`. In earlier versions they are arrays that begin with the type.
"""

from enum import StrEnum

import msgspec

MEDIUM = "GPU"
ExtraKeys = tuple[str, ...] | None
"""Inputs of a block's hash in addition to its tokens: the adapter's name, and in a first block the cache salt."""


class Encoding(StrEnum):
    MAP = "map"
    ARRAY = "array"


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True, kw_only=True, gc=False):
    """Consecutive full blocks of one sequence entered the prefix cache."""

    block_hashes: list[int]
    """Unsigned 64-bit integers."""
    parent_block_hash: int | None
    token_ids: list[int]
    """Tokens of all blocks, in order."""
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[ExtraKeys] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True, kw_only=True, gc=False):
    """Blocks left the prefix cache because they were reused."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True):
    """The prefix cache was reset."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class Batch(msgspec.Struct, array_like=True, gc=False):
    """The events of one step."""

    ts: float
    events: list[Event]
    data_parallel_rank: int = 0


class _StoredArray(msgspec.Struct, tag="BlockStored", array_like=True, gc=False):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None


class _RemovedArray(msgspec.Struct, tag="BlockRemoved", array_like=True, gc=False):
    block_hashes: list[int]
    medium: str | None


class _ClearedArray(msgspec.Struct, tag="AllBlocksCleared", array_like=True):
    pass


class _ArrayBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[_StoredArray | _RemovedArray | _ClearedArray]
    data_parallel_rank: int = 0


_encoder = msgspec.msgpack.Encoder()


def encode(batch: Batch, encoding: Encoding) -> bytes:
    """Encodes a batch as msgpack."""
    if encoding is Encoding.MAP:
        return _encoder.encode(batch)
    return _encoder.encode(_ArrayBatch(batch.ts, [_array(event) for event in batch.events], batch.data_parallel_rank))


def _array(event: Event) -> _StoredArray | _RemovedArray | _ClearedArray:
    match event:
        case BlockStored():
            return _StoredArray(
                event.block_hashes,
                event.parent_block_hash,
                event.token_ids,
                event.block_size,
                event.lora_id,
                event.medium,
            )
        case BlockRemoved():
            return _RemovedArray(event.block_hashes, event.medium)
        case AllBlocksCleared():
            return _ClearedArray()
