"""KV events as vLLM publishes them."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import msgspec
import pytest
import zmq
import zmq.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig, EngineRequest
from vllm_mock.kv_events.config import InvalidKvEventsConfig, KvEventsConfig
from vllm_mock.kv_events.log import KvEventLog
from vllm_mock.kv_events.messages import AllBlocksCleared, Batch, BlockRemoved, BlockStored, Encoding, Event, encode
from vllm_mock.kv_events.publisher import KvEventPublisher

CONFIG = EngineConfig(num_gpu_blocks=20, block_size=4, max_model_len=64)


def engine_with_events(publish: Callable[[list[Event]], None], config: EngineConfig = CONFIG) -> Engine:
    return Engine(config, engines.Text(), engines.STEP_TIME, kv_events=KvEventLog(config.block_size, publish))


def run(*requests: EngineRequest) -> list[Event]:
    events: list[Event] = []
    engine = engine_with_events(events.extend)
    for number, request in enumerate(requests):
        engine.submit(request, 10.0 * number)
    engine.advance_to(1000.0)
    return events


def decoded(batch: bytes) -> Any:
    return msgspec.msgpack.decode(batch)


def test_a_prompt_stores_its_full_blocks_and_later_blocks_follow() -> None:
    first, *later = run(engines.request("a", 10, 8))
    assert isinstance(first, BlockStored)
    assert len(first.block_hashes) == 2
    assert first.parent_block_hash is None
    assert first.token_ids == list(engines.request("a", 10, 8).prompt[:8])
    parent = first.block_hashes[-1]
    for event in later:
        assert isinstance(event, BlockStored)
        assert (event.parent_block_hash, len(event.block_hashes)) == (parent, 1)
        parent = event.block_hashes[-1]
    assert len(later) == 2


def test_after_a_hit_only_new_blocks_are_stored() -> None:
    events = run(
        EngineRequest(request_id="a", prompt=tuple(range(12)), max_tokens=1),
        EngineRequest(request_id="b", prompt=(*range(8), 90, 91, 92, 93), max_tokens=1),
    )
    first, second = events
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert second.parent_block_hash == first.block_hashes[1]
    assert second.token_ids == [90, 91, 92, 93]


def test_adapter_and_salt_change_hashes_and_are_reported() -> None:
    prompt = tuple(range(9))
    plain, salted, adapted = run(
        EngineRequest(request_id="a", prompt=prompt, max_tokens=1),
        EngineRequest(request_id="b", prompt=prompt, max_tokens=1, cache_salt="s"),
        EngineRequest(request_id="c", prompt=prompt, max_tokens=1, lora="sql"),
    )
    assert isinstance(plain, BlockStored)
    assert isinstance(salted, BlockStored)
    assert isinstance(adapted, BlockStored)
    assert len({*plain.block_hashes, *salted.block_hashes, *adapted.block_hashes}) == 6
    assert plain.extra_keys == [None, None]
    assert salted.extra_keys == [("s",), None]
    assert adapted.extra_keys == [("sql",), ("sql",)]
    assert (adapted.lora_id, adapted.lora_name) == (1, "sql")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=15))
def test_stored_minus_removed_blocks_are_the_cached_blocks(works: list[tuple[int, int, int]]) -> None:
    """A prefix index needs nothing but the events."""
    counts: dict[int, int] = {}

    def follow(events: list[Event]) -> None:
        for event in events:
            for block_hash in event.block_hashes if not isinstance(event, AllBlocksCleared) else ():
                counts[block_hash] = counts.get(block_hash, 0) + (1 if isinstance(event, BlockStored) else -1)

    engine = engine_with_events(follow)
    for number, (content, prompt, tokens) in enumerate(works):
        request = EngineRequest(
            request_id=str(number), prompt=tuple(range(100 * content, 100 * content + prompt)), max_tokens=tokens
        )
        engine.submit(request, number * 0.4)
    engine.advance_to(1000.0)
    cached = engine.scheduler.pool.cached_hashes()
    assert {block_hash for block_hash, count in counts.items() if count} == {
        int.from_bytes(block_hash[-8:], "big") for block_hash in cached
    }
    assert all(count >= 0 for count in counts.values())


def test_the_map_encoding_is_that_of_current_vllm() -> None:
    """As captured from a 0.26 server: the batch is an array, its events are maps.

    Fields with null are included if vLLM has no default for them.
    """
    event = BlockStored(
        block_hashes=[15760518052499183552],
        parent_block_hash=None,
        token_ids=[1, 2],
        block_size=2,
        lora_id=None,
        medium="GPU",
        lora_name=None,
        extra_keys=[None],
        group_idx=0,
        kv_cache_spec_kind="full_attention",
    )
    batch = Batch(1.5, [event, BlockRemoved(block_hashes=[3], medium="GPU", group_idx=0), AllBlocksCleared()])
    assert decoded(encode(batch, Encoding.MAP)) == [
        1.5,
        [
            {
                "type": "BlockStored",
                "block_hashes": [15760518052499183552],
                "parent_block_hash": None,
                "token_ids": [1, 2],
                "block_size": 2,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "extra_keys": [None],
                "group_idx": 0,
                "kv_cache_spec_kind": "full_attention",
            },
            {"type": "BlockRemoved", "block_hashes": [3], "medium": "GPU", "group_idx": 0},
            {"type": "AllBlocksCleared"},
        ],
        0,
    ]


def test_the_array_encoding_is_that_of_older_servers() -> None:
    event = BlockStored(
        block_hashes=[7], parent_block_hash=6, token_ids=[1], block_size=1, lora_id=None, medium="GPU", lora_name=None
    )
    batch = Batch(1.5, [event, BlockRemoved(block_hashes=[3], medium="GPU"), AllBlocksCleared()], 0)
    assert decoded(encode(batch, Encoding.ARRAY)) == [
        1.5,
        [["BlockStored", [7], 6, [1], 1, None, "GPU"], ["BlockRemoved", [3], "GPU"], ["AllBlocksCleared"]],
        0,
    ]


async def test_a_subscriber_gets_numbered_batches_and_a_replay(tmp_path: Path) -> None:
    config = KvEventsConfig(
        enable_kv_cache_events=True,
        endpoint=f"ipc://{tmp_path}/pub",
        replay_endpoint=f"ipc://{tmp_path}/replay",
        topic="kv-events",
    )
    publisher = KvEventPublisher(config)
    publisher.start()
    engine = engine_with_events(publisher.publish)
    context = zmq.asyncio.Context.instance()
    subscriber, replay = context.socket(zmq.SUB), context.socket(zmq.REQ)
    try:
        subscriber.connect(config.endpoint)
        subscriber.subscribe("kv-events")
        engine.submit(engines.request("late", 8, 1), 0.0)
        for number in range(200):
            # A subscription takes effect late. Batches that are published earlier are lost.
            engine.submit(engines.request(f"r{number}", 8, 1), 10.0 * number + 1)
            engine.advance_to(10.0 * number + 9)
            if await subscriber.poll(20):
                break
        topic, first, payload = await subscriber.recv_multipart()
        assert topic == b"kv-events"
        assert decoded(payload)[1][0]["type"] == "BlockStored"
        replay.connect(f"ipc://{tmp_path}/replay")
        await replay.send((0).to_bytes(8, "big"))
        replayed_topic, oldest, _ = await asyncio.wait_for(replay.recv_multipart(), 10)
        assert (replayed_topic, oldest) == (b"kv-events", (0).to_bytes(8, "big"))
        assert first >= oldest
    finally:
        subscriber.close(0)
        replay.close(0)
        await publisher.stop()


@pytest.mark.parametrize(("encoding", "topic"), [(Encoding.MAP, [b"kv"]), (Encoding.ARRAY, [])])
async def test_replay_ends_with_minus_one_and_ignores_invalid_requests(
    tmp_path: Path, encoding: Encoding, topic: list[bytes]
) -> None:
    """Only servers that encode events as maps repeat the topic."""
    config = KvEventsConfig(
        endpoint=f"ipc://{tmp_path}/pub", replay_endpoint=f"ipc://{tmp_path}/replay", buffer_steps=2, topic="kv"
    )
    publisher = KvEventPublisher(config, encoding)
    publisher.start()
    for number in range(4):
        publisher.publish([BlockRemoved(block_hashes=[number], medium="GPU")])
    replay = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    try:
        replay.connect(f"ipc://{tmp_path}/replay")
        await replay.send_multipart((b"", b"invalid"))
        await replay.send_multipart((b"", (1).to_bytes(8, "big")))
        answers = [await asyncio.wait_for(replay.recv_multipart(), 10) for _ in range(3)]
        assert [int.from_bytes(frames[-2], "big", signed=True) for frames in answers] == [2, 3, -1]
        assert [frames[1:-2] for frames in answers] == [topic, topic, [b""] if topic else []]
        assert answers[-1][-1] == b""
    finally:
        replay.close(0)
        await publisher.stop()


def test_unknown_settings_are_rejected() -> None:
    config = KvEventsConfig.read('{"enable_kv_cache_events": true, "topic": "kv@a@m"}')
    assert config.publishes
    assert config.endpoint == "tcp://*:5557"
    assert not KvEventsConfig.read('{"enable_kv_cache_events": true, "publisher": "null"}').publishes
    with pytest.raises(InvalidKvEventsConfig, match="unknown field `endpont`"):
        KvEventsConfig.read('{"endpont": "tcp://*:1"}')
    with pytest.raises(InvalidKvEventsConfig, match="allowed are 'zmq' and 'null'"):
        KvEventsConfig.read('{"publisher": "kafka"}')
    with pytest.raises(InvalidKvEventsConfig, match="kv_events_config: Input data was truncated"):
        KvEventsConfig.read("{")


def test_replicas_of_one_process_have_different_ports() -> None:
    config = KvEventsConfig(replay_endpoint="ipc:///tmp/replay")
    moved = config.for_replica(2)
    assert (moved.endpoint, moved.replay_endpoint) == ("tcp://*:5559", "ipc:///tmp/replay_dp2")
    assert config.for_replica(0) == config
