"""KV events of all vLLM versions are decoded, and invalid ones are rejected."""

from typing import Any

import msgspec
import pytest
from picker.endpoints.prefix_cache.kv_events.messages import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    Unreadable,
    read_batch,
)

STORED: dict[str, Any] = {
    "type": "BlockStored",
    "block_hashes": [15760518052499183552],
    "parent_block_hash": None,
    "token_ids": [1, 2],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
}


def batch(*events: Any, ts: float = 1.5, more: tuple[Any, ...] = (0,)) -> bytes:
    return msgspec.msgpack.encode([ts, list(events), *more])


def stored(**fields: Any) -> BlockStored:
    [event] = read_batch(batch({**STORED, **fields})).events
    assert isinstance(event, BlockStored)
    return event


def test_events_are_maps_since_vllm_0_24() -> None:
    read = read_batch(
        batch(
            {**STORED, "group_idx": 0, "kv_cache_spec_kind": "full_attention"},
            {"type": "BlockRemoved", "block_hashes": [3], "medium": "GPU", "group_idx": 0},
            {"type": "AllBlocksCleared"},
        )
    )
    first, second, third = read.events
    assert read.ts == 1.5
    assert isinstance(first, BlockStored)
    assert (first.block_hashes, first.token_ids, first.group_idx) == ([15760518052499183552], [1, 2], 0)
    assert second == BlockRemoved([3], "GPU", 0)
    assert third == AllBlocksCleared()


@pytest.mark.parametrize(
    "tail",
    [(), ("GPU",), ("GPU", "sql"), ("GPU", "sql", [["sql"]]), ("GPU", "sql", [["sql"]], 0, "full_attention", None)],
    ids=["0.8", "0.10", "0.13", "0.16", "0.23"],
)
def test_events_were_arrays_before_and_grew_at_the_end(tail: tuple[Any, ...]) -> None:
    read = read_batch(
        batch(["BlockStored", [7], 6, [1, 2], 2, 1, *tail], ["BlockRemoved", [3], *tail[:1]], ["AllBlocksCleared"])
    )
    first, second, third = read.events
    assert isinstance(first, BlockStored)
    assert (first.block_hashes, first.parent_block_hash, first.block_size, first.lora_id) == ([7], 6, 2, 1)
    assert first.lora_name == (tail[1] if len(tail) > 1 else None)
    assert second == BlockRemoved([3], tail[0] if tail else None)
    assert third == AllBlocksCleared()


def test_hashes_may_be_bytes() -> None:
    assert stored(block_hashes=[b"\x01" * 32], parent_block_hash=b"\x02" * 32).block_hashes == [b"\x01" * 32]


def test_unknown_fields_and_events_are_skipped() -> None:
    read = read_batch(
        batch(
            {**STORED, "ownership": "tier-2", "event_version": 7},
            {"type": "BlockMoved", "block_hashes": [1]},
            ["BlockPinned", 1, 2],
            more=(0, "something new"),
        )
    )
    [event] = read.events
    assert isinstance(event, BlockStored)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no batch",
        msgspec.msgpack.encode({"ts": 1}),
        batch({**STORED, "token_ids": "text"}),
        batch({**STORED, "block_hashes": None}),
        batch(["BlockStored", [1], None, "text", 1]),
    ],
)
def test_a_payload_that_is_no_batch_is_rejected(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        read_batch(payload)


def test_a_string_that_is_not_utf_8_is_rejected() -> None:
    """The decoder raises a different error for it."""
    payload = batch(["BlockRemoved", [7], "GPU"])
    with pytest.raises(Unreadable):
        read_batch(payload.replace(b"GPU", b"G\xacU"))


def test_tokens_and_adapter_alone_identify_a_block_of_text() -> None:
    assert stored().is_text
    assert stored(lora_id=1, lora_name="sql", extra_keys=[["sql"]]).is_text
    assert stored(lora_id=1, lora_name="sql", extra_keys=[[{"type": "lora", "name": "sql"}]]).is_text


def test_salts_images_and_unnamed_adapters_make_no_blocks_of_text() -> None:
    assert not stored(extra_keys=[["salt"]]).is_text
    assert not stored(extra_keys=[[["image-hash", 3]]]).is_text
    assert not stored(extra_keys=[[{"type": "cache_salt", "salt": "s"}]]).is_text
    assert not stored(lora_id=1, lora_name="sql", extra_keys=[["sql", "salt"]]).is_text
    assert not stored(lora_id=1).is_text
