"""The connection with the client of the package h2."""

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


def test_request_and_response_arrive_completely() -> None:
    """Headers, data and the end of stream arrive on both sides."""
    peer = H2Client()
    stream_id = peer.request()
    peer.client.send_data(stream_id, b"question", end_stream=True)
    peer.pump()
    opened, got = peer.server_events
    assert isinstance(opened, RequestReceived)
    assert (opened.headers.method, opened.headers.path) == ("POST", "/service/Method")
    assert opened.headers.headers["content-type"] == "application/grpc"
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


def test_client_receives_the_settings() -> None:
    """The client also acknowledges them, so that its header blocks can be cached."""
    peer = H2Client()
    assert peer.client.remote_settings.header_table_size == 0
    assert peer.client.remote_settings.max_concurrent_streams == limits.MAX_STREAMS
    assert peer.client.remote_settings.initial_window_size == limits.STREAM_WINDOW_BYTES


def test_equal_header_blocks_are_decoded_once() -> None:
    """Equal blocks on two connections give the same object, after each client's first blocks."""
    cache = HeaderBlockCache()
    headers = []
    for peer in (H2Client(Connection(cache)), H2Client(Connection(cache))):
        for _ in range(3):
            peer.request(end=True)
        headers += [event.headers for event in peer.server_events if isinstance(event, RequestReceived)]
    assert headers[2] is headers[5]
    assert len({id(request_headers) for request_headers in headers}) == 3


def test_headers_arrive_in_continuation_frames() -> None:
    """The block is larger than the client's frame size."""
    peer = H2Client()
    peer.client.max_outbound_frame_size = 1 << 14
    peer.client.encoder.huffman = False  # pyright: ignore[reportAttributeAccessIssue]
    long = "x" * 16_000
    stream_id = peer.request([*REQUEST, ("x-long", long[:8000]), ("x-more", long[:7000])], end=True)
    [opened] = peer.server_events
    assert isinstance(opened, RequestReceived)
    assert opened.stream_id == stream_id
    assert len(opened.headers.headers["x-more"]) == 7000


def test_large_bodies_respect_the_windows() -> None:
    """15 MiB arrive, and 15 MiB are returned to a client with the protocol's initial windows."""
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


def test_small_response_is_not_blocked_by_a_large_one() -> None:
    """Both share the connection's window frame by frame."""
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
            unacknowledged = len(peer.body(stream_id)) - acknowledged[stream_id]
            if unacknowledged and stream_id not in ended:
                acknowledged[stream_id] += unacknowledged
                peer.client.acknowledge_received_data(unacknowledged, stream_id)
        ended = [event.stream_id for event in peer.client_events if isinstance(event, h2.events.StreamEnded)]
    assert ended == [small, large]


@given(st.lists(st.integers(min_value=1, max_value=100_000), min_size=1, max_size=6), st.integers(0, 200_000))
def test_initial_window_may_change_while_data_waits(sizes: list[int], window: int) -> None:
    """SETTINGS_INITIAL_WINDOW_SIZE may make a window negative and open it again. No byte is lost or duplicated."""
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


def test_early_response_resets_the_stream_without_error() -> None:
    """RST_STREAM with NO_ERROR follows the trailers; data in transit is ignored."""
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


def test_stream_reset_discards_the_response() -> None:
    """Data that waits is discarded, and later sends do nothing."""
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


def test_request_trailers_end_the_request() -> None:
    """Their content is ignored."""
    peer = H2Client()
    stream_id = peer.request()
    peer.client.send_data(stream_id, b"x")
    peer.client.send_headers(stream_id, [("x-check", "1")], end_stream=True)
    peer.pump()
    assert peer.server_events[-1] == DataReceived(stream_id, b"", ended=True)


def test_padding_is_removed() -> None:
    """The event holds the data without the padding."""
    peer = H2Client()
    stream_id = peer.request()
    peer.client.send_data(stream_id, b"padded", pad_length=200)
    peer.pump()
    assert received(peer, stream_id) == b"padded"
