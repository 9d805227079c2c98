"""vLLM's KV events, in all forms that it has published them in.

A batch is an array: [unix seconds, events, data-parallel rank]. Since vLLM 0.24 its events are maps with a `type`.
Older ones are arrays that begin with the type, to which fields were appended over time. Hashes are integers, or bytes
with `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`. Unknown fields and unknown kinds of events are skipped.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

EngineHash = int | bytes
"""A server's identifier of a block and all blocks before it. Servers may differ in it: vLLM seeds it per process."""


class Unreadable(Exception):
    """Not a batch of KV events."""


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """Full consecutive blocks of one sequence are in the cache from now on."""

    block_hashes: Sequence[EngineHash]
    parent_block_hash: EngineHash | None
    token_ids: Sequence[int]
    """Those of all the blocks."""
    block_size: int
    """Tokens."""
    lora_id: int | None = None
    medium: str | None = None
    """Where the blocks are: `GPU`, or a lower tier. Servers before 0.10 do not report it."""
    lora_name: str | None = None
    """Servers before 0.13 do not report it."""
    extra_keys: object = None
    """The parts of each block's hash beside its tokens: adapter, salt, images. None for no part."""
    group_idx: int | None = None
    """Hybrid models have several kinds of layers, with blocks for each."""
    kv_cache_spec_kind: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether the blocks are identified by their tokens and adapter alone."""
        if self.lora_id is not None and self.lora_name is None:
            return False
        keys = self.extra_keys
        if not isinstance(keys, list):
            return True
        of_blocks = cast(list[list[object] | None], keys)
        return all(self._is_adapter(key) for of_block in of_blocks for key in of_block or ())

    def _is_adapter(self, key: object) -> bool:
        if isinstance(key, Mapping):
            return cast(Mapping[str, object], key).get("type") == "lora"
        return key == self.lora_name


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """Blocks were evicted."""

    block_hashes: Sequence[EngineHash]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True):
    """The prefix cache was reset."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class Batch(msgspec.Struct, array_like=True, gc=False):
    """The changes of one step of a server."""

    ts: float
    """Time of the server's clock, in unix seconds."""
    events: Sequence[Event]


class _StoredArray(msgspec.Struct, tag="BlockStored", array_like=True, gc=False):
    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: object = None
    group_idx: object = None

    def event(self) -> BlockStored:
        return BlockStored(
            self.block_hashes,
            self.parent_block_hash,
            self.token_ids,
            self.block_size,
            self.lora_id,
            self.medium,
            self.lora_name,
            self.extra_keys,
            self.group_idx if isinstance(self.group_idx, int) else None,
        )


class _RemovedArray(msgspec.Struct, tag="BlockRemoved", array_like=True, gc=False):
    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: object = None

    def event(self) -> BlockRemoved:
        return BlockRemoved(self.block_hashes, self.medium, self.group_idx if isinstance(self.group_idx, int) else None)


class _ClearedArray(msgspec.Struct, tag="AllBlocksCleared", array_like=True):
    def event(self) -> AllBlocksCleared:
        return AllBlocksCleared()


_Array = _StoredArray | _RemovedArray | _ClearedArray


class _RawBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[msgspec.Raw]


_batch = msgspec.msgpack.Decoder(Batch)
_raw_batch = msgspec.msgpack.Decoder(_RawBatch)
_map = msgspec.msgpack.Decoder(Event)
_array: msgspec.msgpack.Decoder[_Array] = msgspec.msgpack.Decoder(_Array)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of the decoders, those for strings that are not UTF-8 and for too deep nesting included."""

_KNOWN = ("BlockStored", "BlockRemoved", "AllBlocksCleared")


def read_batch(payload: bytes) -> Batch:
    """Decode a batch. Raises Unreadable."""
    try:
        return _batch.decode(payload)
    except _UNREADABLE:
        return _by_event(payload)


def _by_event(payload: bytes) -> Batch:
    """Decode a batch in which not all events have the newest form. Raises Unreadable."""
    try:
        raw = _raw_batch.decode(payload)
        return Batch(raw.ts, [event for item in raw.events if (event := _event(item)) is not None])
    except _UNREADABLE as error:
        raise Unreadable(str(error)) from None


def _event(raw: msgspec.Raw) -> Event | None:
    """Decode an event. None for an unknown kind. Raises msgspec.DecodeError."""
    try:
        return _array.decode(raw).event()
    except msgspec.ValidationError:
        pass
    try:
        return _map.decode(raw)
    except msgspec.ValidationError:
        if _kind(raw) in _KNOWN:
            raise
        return None


def _kind(raw: msgspec.Raw) -> object:
    value: object = msgspec.msgpack.decode(raw)
    if isinstance(value, list) and value:
        return cast(list[object], value)[0]
    return cast(dict[str, object], value).get("type") if isinstance(value, dict) else None
