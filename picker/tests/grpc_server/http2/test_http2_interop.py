"""The connection against the client of the package h2."""

import h2.events
from h2.settings import SettingCodes
from http2_peer import ANSWER, REQUEST, TRAILERS, H2Client
from hypothesis import given
from hypothesis import strategies as st
from picker.grpc_server.http2 import limits
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.events import DataReceived, RequestReceived, StreamReset
from picker.grpc_server.http2.headers import HeaderBlockCache


def received(peer: H2Client, stream_id: int) -> bytes:
    return b"".join(
        event.data for event in peer.server_events if isinstance(event, DataReceived) and event.stream_id == stream_id
    )


def test_a_request_and_its_answer() -> None:
    """Headers, data and the end arrive on both sides."""
    peer = H2Client()
    stream_id = peer.request()
    peer.client.send_data(stream_id, b"question", end_stream=True)
    peer.pump()
    opened, got = peer.server_events
    assert isinstance(opened, RequestReceived)
    assert (opened.head.method, opened.head.path) == ("POST", "/service/Method")
    assert opened.head.headers["content-type"] == "application/grpc"
    assert got == DataReceived(stream_id, b"question", ended=True)
    peer.server.respond(stream_id, ANSWER)
    peer.server.send(stream_id, b"answer")
    peer.server.end(stream_id, TRAILERS)
    peer.pump()
    kinds = [type(event) for event in peer.client_events if getattr(event, "stream_id", None) == stream_id]
    assert kinds == [
        h2.events.ResponseReceived,
        h2.events.DataReceived,
        h2.events.TrailersReceived,
        h2.events.StreamEnded,
    ]


def test_the_client_learns_the_settings() -> None:
    """And acknowledges them, whereupon its header blocks can be kept."""
    peer = H2Client()
    assert peer.client.remote_settings.header_table_size == 0
    assert peer.client.remote_settings.max_concurrent_streams == limits.MAX_STREAMS
    assert peer.client.remote_settings.initial_window_size == limits.STREAM_WINDOW_BYTES


def test_kept_heads_are_the_same_object() -> None:
    """Two requests with equal blocks, on two connections, are decoded once; both after the clients' first blocks."""
    kept = HeaderBlockCache()
    heads = []
    for peer in (H2Client(Connection(kept)), H2Client(Connection(kept))):
        for _ in range(3):
            peer.request(end=True)
        heads += [event.head for event in peer.server_events if isinstance(event, RequestReceived)]
    assert heads[2] is heads[5]
    assert len({id(head) for head in heads}) == 3


def test_headers_over_many_frames() -> None:
    """A block beyond the client's frame size comes in CONTINUATION frames."""
    peer = H2Client()
    peer.client.max_outbound_frame_size = 1 << 14
    peer.client.encoder.huffman = False  # pyright: ignore[reportAttributeAccessIssue]
    long = "x" * 16_000
    stream_id = peer.request([*REQUEST, ("x-long", long[:8000]), ("x-more", long[:7000])], end=True)
    [opened] = peer.server_events
    assert isinstance(opened, RequestReceived)
    assert opened.stream_id == stream_id
    assert len(opened.head.headers["x-more"]) == 7000


def test_a_large_body_goes_both_ways_within_the_windows() -> None:
    """15 MiB in, and 15 MiB back to a client with the smallest windows that the protocol starts with."""
    peer = H2Client()
    body = bytes(range(256)) * (15 << 12)
    stream_id = peer.request()
    position = 0
    while position < len(body):
        size = min(peer.client.local_flow_control_window(stream_id), peer.client.max_outbound_frame_size, 1 << 14)
        assert size > 0
        peer.client.send_data(stream_id, body[position : position + size])
        position += size
        if position % (1 << 20) < size:
            peer.pump()
    peer.client.end_stream(stream_id)
    peer.pump()
    assert received(peer, stream_id) == body
    peer.server.respond(stream_id, ANSWER)
    peer.server.send(stream_id, body)
    peer.server.end(stream_id, TRAILERS)
    taken = 0
    while taken < len(body):
        peer.pump()
        available = len(peer.body(stream_id)) - taken
        assert 0 < available <= 65_535
        peer.client.acknowledge_received_data(available, stream_id)
        taken += available
    peer.pump()
    assert peer.body(stream_id) == body
    assert isinstance(peer.client_events[-1], h2.events.StreamEnded)
    assert peer.server.unsent_bytes == 0


def test_answers_share_a_narrow_connection() -> None:
    """A small answer does not wait until a large one before it has gone."""
    peer = H2Client()
    large, small = peer.request(end=True), peer.request(end=True)
    for stream_id, size in ((large, 300_000), (small, 20_000)):
        peer.server.respond(stream_id, ANSWER)
        peer.server.send(stream_id, b"x" * size)
        peer.server.end(stream_id, TRAILERS)
    ended: list[int] = []
    acknowledged: dict[int, int] = {large: 0, small: 0}
    while len(ended) < 2:
        peer.pump()
        for stream_id in (large, small):
            fresh = len(peer.body(stream_id)) - acknowledged[stream_id]
            if fresh and stream_id not in ended:
                acknowledged[stream_id] += fresh
                peer.client.acknowledge_received_data(fresh, stream_id)
        ended = [event.stream_id for event in peer.client_events if isinstance(event, h2.events.StreamEnded)]
    assert ended == [small, large]


@given(st.lists(st.integers(min_value=1, max_value=100_000), min_size=1, max_size=6), st.integers(0, 200_000))
def test_a_window_that_changes_while_data_waits(sizes: list[int], window: int) -> None:
    """SETTINGS_INITIAL_WINDOW_SIZE may shrink a window below zero and open it again; no byte is lost or doubled."""
    peer = H2Client()
    stream_id = peer.request(end=True)
    peer.server.respond(stream_id, ANSWER)
    body = b"".join(bytes([index]) * size for index, size in enumerate(sizes))
    position = 0
    for size in sizes:
        peer.server.send(stream_id, body[position : position + size])
        position += size
        peer.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        peer.pump()
    peer.server.end(stream_id, TRAILERS)
    peer.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: len(body) + 1})
    peer.client.increment_flow_control_window(len(body) + 1)
    peer.pump()
    assert peer.body(stream_id) == body
    assert any(isinstance(event, h2.events.StreamEnded) for event in peer.client_events)


def test_an_answer_before_the_end_of_the_request_stops_the_client() -> None:
    """RST_STREAM with NO_ERROR after the trailers; data on its way then is ignored."""
    peer = H2Client()
    stream_id = peer.request()
    peer.server.end(stream_id, ANSWER)
    peer.client.send_data(stream_id, b"too late")
    peer.pump()
    [reset] = [event for event in peer.client_events if isinstance(event, h2.events.StreamReset)]
    assert reset.error_code == 0
    assert len(peer.server_events) == 1
    peer.request(end=True)
    assert isinstance(peer.server_events[-1], RequestReceived)


def test_a_reset_takes_the_answer_with_it() -> None:
    """What waited is dropped, and answering goes nowhere."""
    peer = H2Client()
    stream_id = peer.request(end=True)
    peer.server.respond(stream_id, ANSWER)
    peer.server.send(stream_id, b"x" * 200_000)
    peer.pump()
    assert peer.server.unsent_bytes > 0
    peer.client.reset_stream(stream_id, 8)
    peer.pump()
    assert peer.server_events[-1] == StreamReset(stream_id, 8)
    assert peer.server.unsent_bytes == 0
    peer.server.send(stream_id, b"y")
    peer.server.end(stream_id, TRAILERS)
    assert peer.server.data_to_send() == b""


def test_request_trailers_end_a_request() -> None:
    """They carry nothing that is read."""
    peer = H2Client()
    stream_id = peer.request()
    peer.client.send_data(stream_id, b"x")
    peer.client.send_headers(stream_id, [("x-check", "1")], end_stream=True)
    peer.pump()
    assert peer.server_events[-1] == DataReceived(stream_id, b"", ended=True)


def test_padding_is_taken_off() -> None:
    """Padded data arrives without it."""
    peer = H2Client()
    stream_id = peer.request()
    peer.client.send_data(stream_id, b"padded", pad_length=200)
    peer.pump()
    assert received(peer, stream_id) == b"padded"
