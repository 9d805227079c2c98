"""Messages of peers are bounded and validated."""

from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picker.bounded_text import MAX_CHARACTERS
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import COARSE_STRIDE, FINE_BLOCKS, PrefixIndex, sampled_hashes
from picker.peers.deltas import (
    FULL_BYTES,
    MAX_BLOCKS,
    MAX_ENTRIES,
    MAX_MESSAGE_BYTES,
    MAX_PREFIX_BLOCKS,
    Batch,
    Ended,
    Hello,
    InvalidMessage,
    Message,
    Moved,
    Names,
    Prefixes,
    Scheduled,
    Snapshot,
    decode,
    encode,
    pack_hashes,
    unpack_hashes,
)
from picker.peers.peer_state import PeerState
from picker.requestcontrol.director import MAX_BLOCKS as HASHED_BLOCKS
from replicas import POOL, Clock, Link, ReplicaOfPicker

SERVER = ("10.0.0.0:8000", "qwen-0")
NAMES = Names((SERVER,), (str(POOL),), ("qwen",))


@dataclass
class Listener:
    picker: ReplicaOfPicker
    state: PeerState


@pytest.fixture
def listener() -> Listener:
    picker = ReplicaOfPicker("listener", Clock())
    state = PeerState(picker.tracker, picker)
    state.subscribed()
    state.apply(encode(Hello(1, "hostile", 0)), 0.0)
    return Listener(picker, state)


def scheduled(number: int = 0, **changes: Any) -> Scheduled:
    return msgspec.structs.replace(Scheduled(number, 0, 0, 0, 0, 10, 10, 10, 1, b""), **changes)


def batch(*entries: Scheduled, sequence: int = 1, now_ms: int = 1000, names: Names = NAMES) -> bytes:
    return encode(Batch(sequence, now_ms, names, entries, (), ()))


def test_the_longest_prompt_fits_its_limit() -> None:
    marks = sampled_hashes(range(HASHED_BLOCKS))
    assert len(marks) == MAX_BLOCKS == FINE_BLOCKS + (HASHED_BLOCKS - FINE_BLOCKS) // COARSE_STRIDE
    assert list(unpack_hashes(pack_hashes(marks))) == list(marks)


def test_recorded_samples_are_as_the_whole_prompt() -> None:
    replica = ReplicaOfPicker("a", Clock())
    for blocks in (1, 127, 128, 129, 136, 700, HASHED_BLOCKS):
        hashes = tuple(range(blocks))
        for capacity in (50, 128, 140, 4096):
            whole, sampled = (PrefixIndex(64, default_capacity_blocks=capacity) for _ in range(2))
            whole.record(replica.endpoints[0], hashes)
            sampled.record_sampled(replica.endpoints[0], sampled_hashes(hashes))
            assert whole.held(replica.endpoints[0]) == sampled.held(replica.endpoints[0])


def test_a_restored_index_is_as_the_one_before() -> None:
    replica = ReplicaOfPicker("a", Clock())
    endpoint, rng = replica.endpoints[0], Random(1)
    before, after = PrefixIndex(64, default_capacity_blocks=500), PrefixIndex(64, default_capacity_blocks=500)
    prompts = [tuple(rng.randrange(1 << 63) for _ in range(rng.randrange(300))) for _ in range(10)]
    for prompt in prompts:
        before.record(endpoint, prompt)
    held = before.held(endpoint)
    for start in range(0, len(held), 7):
        after.restore(endpoint, held[start : start + 7])
    assert after.held(endpoint) == held
    assert [after.cached_blocks(endpoint, each) for each in prompts] == [
        before.cached_blocks(endpoint, each) for each in prompts
    ]


def test_a_part_of_a_restored_index_never_evicts_newer_blocks() -> None:
    endpoint = ReplicaOfPicker("a", Clock()).endpoints[0]
    index = PrefixIndex(64, default_capacity_blocks=4)
    index.record(endpoint, (1, 2, 3))
    index.restore(endpoint, [(10, 1), (11, 1), (12, 8)])
    assert index.held(endpoint) == [(1, 1), (2, 1), (3, 1), (10, 1)]
    index.forget(endpoint)
    assert len(index) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"rubbish" * 100,
        msgspec.msgpack.encode({"hello": 1}),
        msgspec.msgpack.encode(["unknown", 1, 2]),
        msgspec.msgpack.encode(["hello", "1", "a", 0]),
        msgspec.msgpack.encode(["hello", 1, "a" * (MAX_CHARACTERS + 1), 0]),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"x" * (MAX_MESSAGE_BYTES + 1),
    ],
)
def test_rubbish_is_rejected(data: bytes, listener: Listener) -> None:
    with pytest.raises(InvalidMessage):
        listener.state.apply(data, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"number": -1},
        {"number": 1 << 63},
        {"endpoint": -1},
        {"endpoint": 1},
        {"pool": 1, "blocks": b"8 bytes "},
        {"model": 1},
        {"prefill_tokens": -1},
        {"prefill_tokens": 1 << 60},
        {"predicted_ms": -1},
        {"decode_tokens": -1},
        {"decode_tokens": 1 << 60},
        {"sequences": 0},
        {"sequences": 257},
        {"blocks": b"x" * 8 * (MAX_BLOCKS + 1)},
        {"blocks": b"seven b"},
        {"at_ms": -1},
        {"at_ms": 1001},
    ],
)
def test_an_entry_beyond_its_limits_is_rejected(change: dict[str, Any], listener: Listener) -> None:
    with pytest.raises(InvalidMessage):
        listener.state.apply(batch(msgspec.structs.replace(scheduled(), **change)), 1.0)
    listener.state.drop()
    assert listener.picker.counts() == [(0, 0, 0)] * 3


def test_too_many_entries_are_rejected(listener: Listener) -> None:
    with pytest.raises(InvalidMessage):
        listener.state.apply(batch(*(scheduled(number) for number in range(MAX_ENTRIES + 1))), 1.0)


@pytest.mark.parametrize(
    ("blocks", "stand_for"), [(b"8 bytes ", b""), (b"8 bytes ", b"\x02"), (b"seven b", b"\x01"), (b"", b"\x01")]
)
def test_prefixes_that_do_not_fit_are_rejected(blocks: bytes, stand_for: bytes, listener: Listener) -> None:
    with pytest.raises(InvalidMessage):
        listener.state.apply(encode(Prefixes(str(POOL), SERVER, blocks, stand_for)), 1.0)


def test_messages_before_the_hello_are_rejected() -> None:
    picker = ReplicaOfPicker("listener", Clock())
    state = PeerState(picker.tracker, picker)
    for message in (batch(), encode(Snapshot(0, NAMES, (), True)), encode(Prefixes("", SERVER, b"", b""))):
        with pytest.raises(InvalidMessage, match="no Hello"):
            state.apply(message, 0.0)


@pytest.mark.parametrize("message", [Hello(1, "hostile", 0), Hello(2, "hostile", 0)])
def test_a_second_hello_is_rejected(message: Hello, listener: Listener) -> None:
    with pytest.raises(InvalidMessage):
        listener.state.apply(encode(message), 0.0)


def test_a_snapshot_after_the_last_one_is_rejected(listener: Listener) -> None:
    listener.state.apply(encode(Snapshot(0, NAMES, (), True)), 0.0)
    with pytest.raises(InvalidMessage):
        listener.state.apply(encode(Snapshot(0, NAMES, (), True)), 0.0)


def test_ends_of_unknown_requests_change_nothing(listener: Listener) -> None:
    listener.state.apply(encode(Batch(1, 1, NAMES, (), (Moved(7, 0, 0, 0, b""),), (Ended(8, 0, 1),))), 0.0)
    assert listener.picker.counts() == [(0, 0, 0)] * 3
    assert listener.picker.endpoints[0].failing == 0


MESSAGES = (
    encode(Hello(1, "hostile", 0)),
    batch(scheduled(1), scheduled(2, blocks=b"8 bytes ")),
    encode(Batch(1, 9, NAMES, (), (Moved(1, 0, 0, 0, b"8 bytes "),), (Ended(1, 5, 1),))),
    encode(Snapshot(9, NAMES, (scheduled(3),), True)),
    encode(Prefixes(str(POOL), SERVER, b"8 bytes ", b"\x08")),
)


@given(st.lists(st.tuples(st.sampled_from(MESSAGES), st.integers(0, 200), st.binary(max_size=3)), max_size=8))
@settings(max_examples=300, deadline=None)
def test_changed_messages_leave_counts_that_a_drop_clears(changes: list[tuple[bytes, int, bytes]]) -> None:
    picker = ReplicaOfPicker("listener", Clock())
    state = PeerState(picker.tracker, picker)
    for message, position, put in changes:
        position %= len(message)
        try:
            state.apply(message[:position] + put + message[position + len(put) :], 100.0)
        except InvalidMessage:
            state.subscribed()
    state.drop()
    assert picker.counts() == [(0, 0, 0)] * 3
    assert picker.tracker.peers == InFlightTracker().peers


def sent_batches(replica: ReplicaOfPicker) -> list[bytes]:
    """Collects the batches that are full."""
    full: list[bytes] = []

    def changed(is_full: bool) -> None:
        if is_full:
            full.append(replica.publisher.flush())

    replica.publisher.on_changed = changed
    return full


def test_a_publisher_keeps_its_messages_below_the_limit() -> None:
    clock = Clock()
    replica, listener = ReplicaOfPicker("a", clock), ReplicaOfPicker("b", clock)
    link = Link(replica, listener, clock)
    link.connect()
    full = sent_batches(replica)
    long = "x" * (1 << 19)
    requests = [replica.pick(f"{number} {long}") for number in range(100)]
    full.append(replica.publisher.flush())
    assert len(full) > 2
    assert max(map(len, full)) < FULL_BYTES + (8 << 10)
    for message in full:
        link.deliver(message)
    assert link.up
    assert len(link.state) == len(requests)


def test_long_model_names_of_clients_do_not_overfill_a_message() -> None:
    clock = Clock()
    replica, listener = ReplicaOfPicker("a", clock), ReplicaOfPicker("b", clock)
    link = Link(replica, listener, clock)
    link.connect()
    full = sent_batches(replica)
    for number in range(1500):
        replica.pick("hello", model=f"{number}" + "\N{GRINNING FACE}" * 250)
    full.append(replica.publisher.flush())
    assert max(map(len, full)) < MAX_MESSAGE_BYTES / 2
    for message in full:
        link.deliver(message)
    snapshot = list(replica.publisher.snapshot())
    assert max(map(len, snapshot)) < MAX_MESSAGE_BYTES / 2
    assert listener.counts() == replica.counts()


def test_the_largest_messages_are_within_the_limit() -> None:
    entries = tuple(scheduled((1 << 63) - 1 - n, prefill_tokens=1 << 40) for n in range(MAX_ENTRIES))
    ended = tuple(Ended((1 << 63) - 1 - n, 1 << 50, 2) for n in range(MAX_ENTRIES))
    moved = tuple(Moved((1 << 63) - 1 - n, 1 << 50, 0, 0, b"") for n in range(MAX_ENTRIES))
    message = encode(Batch(1, 1 << 51, NAMES, entries, moved, ended))
    assert len(message) + FULL_BYTES + MAX_BLOCKS * 8 < MAX_MESSAGE_BYTES
    blocks = bytes(8 * MAX_PREFIX_BLOCKS)
    assert (
        len(encode(Prefixes("x" * 256, ("x" * 256, "x" * 256), blocks, bytes(MAX_PREFIX_BLOCKS)))) < MAX_MESSAGE_BYTES
    )


def test_requests_beyond_the_limit_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picker.peers.publisher.MAX_REQUESTS", 3)
    replica = ReplicaOfPicker("a", Clock())
    requests = [replica.pick() for _ in range(5)]
    assert len(replica.publisher) == 3
    for request in requests:
        replica.director.ended(request)
    message = decode(replica.publisher.flush())
    assert isinstance(message, Batch)
    assert len(message.scheduled) == len(message.ended) == 3


def test_without_subscribers_only_the_requests_in_flight_are_kept() -> None:
    replica = ReplicaOfPicker("a", Clock())
    replica.publisher.active = False
    request = replica.pick()
    replica.director.ended(replica.pick())
    message = decode(replica.publisher.flush())
    assert isinstance(message, Batch)
    assert not message.scheduled
    assert not message.ended
    assert len(replica.publisher) == 1
    replica.director.ended(request)
    assert len(replica.publisher) == 0


def test_every_message_is_read_as_it_was_written() -> None:
    messages: list[Message] = [decode(message) for message in MESSAGES]
    assert [encode(message) for message in messages] == list(MESSAGES)


def test_a_request_beyond_the_limits_of_the_format_is_reported_within_them() -> None:
    """Otherwise one such request would end every subscription."""
    clock = Clock()
    replica, listener = ReplicaOfPicker("a", clock), ReplicaOfPicker("b", clock)
    request = replica.pick()
    replica.director.ended(request)
    link = Link(replica, listener, clock)
    replica.publisher.flush()
    link.connect()
    request.prompt.tokens = request.decode_tokens = 1 << 60
    request.prompt.predicted_s = float("inf")
    request.prompt.sequences = 10_000
    request.pool_key = f"{'g' * 253}/{'n' * 63}/{'p' * 253}"
    replica.publisher.scheduled(request)
    link.deliver(replica.publisher.flush())
    assert link.up
    assert len(link.state) == 1
    for part in replica.publisher.snapshot():
        decode(part)  # must not raise
