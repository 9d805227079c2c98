"""Rules of RFC 9113 for a server, frame by frame; h2spec tests more of them over a socket."""

from itertools import pairwise

import pytest
from http2_peer import ANSWER, REQUEST, TRAILERS, RawClient, data, headers
from hypothesis import given
from hypothesis import strategies as st
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.events import ConnectionTerminated, DataReceived, Event, RequestReceived, StreamReset
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.headers import HeaderBlockCache

PING = frames.frame(frames.PING, 0, 0, b"12345678")


def test_server_sends_its_preface_first() -> None:
    """SETTINGS and a WINDOW_UPDATE of the connection are sent before any bytes of the client."""
    settings, window = RawClient(sends_preface=False).received_frames()
    assert (settings.kind, settings.flags) == (frames.SETTINGS, 0)
    assert window.kind == frames.WINDOW_UPDATE


def test_ping_is_acknowledged() -> None:
    """The acknowledgement has the same payload."""
    client = RawClient()
    client.send(PING)
    [pong] = client.received_frames()
    assert (pong.kind, pong.flags, pong.payload) == (frames.PING, frames.ACK, b"12345678")


def test_http1_request_fails_with_protocol_error() -> None:
    """The GOAWAY names the missing preface."""
    client = RawClient(sends_preface=False)
    [terminated] = client.send(b"GET / HTTP/1.1\r\nhost: picker\r\n\r\n")
    assert terminated == ConnectionTerminated(
        ErrorCode.PROTOCOL_ERROR, "invalid connection preface: expected HTTP/2 with prior knowledge"
    )
    assert client.goaway().code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (headers(2), ErrorCode.PROTOCOL_ERROR),
        (headers(0), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.CONTINUATION, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, frames.MAX_WINDOW_BYTES), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 0, 1, b"") + PING, ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frames.frame_header(frames.DATA, 0, 1, (1 << 14) + 1), ErrorCode.FRAME_SIZE_ERROR),
        (headers(1) + frames.frame(frames.DATA, frames.PADDED, 1, b"\x05xxxx"), ErrorCode.PROTOCOL_ERROR),
        (headers(1) + frames.rst_stream(1, ErrorCode.CANCEL) + headers(1), ErrorCode.STREAM_CLOSED),
        (headers(7) + headers(3), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_connection_error_closes_the_connection(sent: bytes, code: ErrorCode) -> None:
    """GOAWAY has the error code, ConnectionTerminated is returned, and later bytes are ignored."""
    client = RawClient()
    terminated = client.send(sent)[-1]
    assert isinstance(terminated, ConnectionTerminated)
    assert terminated.code is code
    assert client.goaway().code is code
    assert client.send(PING) == []
    assert client.received_frames() == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (headers(1, [*REQUEST, ("Upper", "x")]), ErrorCode.PROTOCOL_ERROR),
        (headers(1, [*REQUEST, ("connection", "close")]), ErrorCode.PROTOCOL_ERROR),
        (headers(1, [*REQUEST, (":path", "/again")]), ErrorCode.PROTOCOL_ERROR),
        (headers(1, [*REQUEST, ("x", "line\nend")]), ErrorCode.PROTOCOL_ERROR),
        (headers(1, [*REQUEST, ("content-length", "many")]), ErrorCode.PROTOCOL_ERROR),
        (headers(1, REQUEST[1:]), ErrorCode.PROTOCOL_ERROR),
        (headers(1, [*REQUEST, ("content-length", "3")]) + data(1, b"four"), ErrorCode.PROTOCOL_ERROR),
        (headers(1, [*REQUEST, ("content-length", "3")]) + data(1, b"2!", end=True), ErrorCode.PROTOCOL_ERROR),
        (headers(1) + headers(1, []), ErrorCode.PROTOCOL_ERROR),
        (headers(1, end=True) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
        (headers(1) + frames.window_update(1, frames.MAX_WINDOW_BYTES), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 1, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_stream_error_resets_only_the_stream(sent: bytes, code: ErrorCode) -> None:
    """RST_STREAM has the error code; other streams continue."""
    client = RawClient()
    events = client.send(sent)
    resets = [frame for frame in client.received_frames() if frame.kind == frames.RST_STREAM]
    assert [(reset.stream_id, reset.code) for reset in resets] == [(1, code)]
    assert not any(isinstance(event, ConnectionTerminated) for event in events)
    assert [type(event) for event in client.request(9, end=True)] == [RequestReceived]


def test_stream_error_is_reported_as_stream_reset() -> None:
    """The handler of the stream gets the event."""
    client = RawClient()
    client.request()
    assert client.send(headers(1, [(":path", "/")], end=True)) == [StreamReset(1, ErrorCode.PROTOCOL_ERROR)]


def test_data_beyond_the_connection_window_is_a_connection_error() -> None:
    """The window is not replenished, because the peer reads no responses."""
    client = RawClient()
    client.request()
    sent = 0
    block = data(1, bytes(1 << 14)) * 64
    client.connection.respond(1, ANSWER)
    client.connection.send(1, bytes(40 << 20))
    events: list[Event] = []
    while not client.connection.closed:
        events = client.send(block)
        sent += 1
    assert 60 <= sent <= 66
    assert isinstance(events[-1], ConnectionTerminated)
    assert events[-1].code is ErrorCode.FLOW_CONTROL_ERROR


def test_window_is_replenished_when_half_is_used() -> None:
    """One WINDOW_UPDATE covers megabytes of a stream."""
    client = RawClient()
    client.request()
    for _ in range(7):
        client.send(data(1, bytes(1 << 14)) * 64)
        assert client.received_frames() == []
    client.send(data(1, bytes(1 << 14)) * 64)
    [update] = client.received_frames()
    assert (update.kind, update.stream_id) == (frames.WINDOW_UPDATE, 1)
    assert frames.read_word(update.payload) == (8 << 20,)


def test_shutdown_serves_streams_that_have_begun() -> None:
    """Two GOAWAYs, a round trip apart, so that no request in transit is lost. The connection closes after the last
    response."""
    client = RawClient()
    client.request(1, end=True)
    client.connection.shut_down()
    first, ping = client.received_frames()
    assert (first.kind, first.payload[:4]) == (frames.GOAWAY, b"\x7f\xff\xff\xff")
    assert [type(event) for event in client.request(3, end=True)] == [RequestReceived]
    client.send(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
    [last] = client.received_frames()
    assert (last.kind, last.payload[:4], last.code) == (frames.GOAWAY, b"\0\0\0\x03", ErrorCode.NO_ERROR)
    assert client.request(5, end=True) == []
    [refused] = client.received_frames()
    assert (refused.stream_id, refused.code) == (5, ErrorCode.REFUSED_STREAM)
    for stream_id in (1, 3):
        assert not client.connection.closed
        client.connection.respond(stream_id, ANSWER)
        client.connection.end(stream_id, TRAILERS)
    assert client.connection.closed


def test_idle_connection_closes_after_the_ping_round_trip() -> None:
    """No stream is open, so nothing else delays it."""
    client = RawClient()
    client.connection.shut_down()
    [_, ping] = client.received_frames()
    client.send(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
    assert client.connection.closed


def test_data_waits_while_sending_is_paused() -> None:
    """It is sent in order afterwards."""
    client = RawClient()
    client.request(end=True)
    client.connection.respond(1, ANSWER)
    client.connection.pause_sending(True)
    client.connection.send(1, b"one")
    client.connection.send(1, b"two")
    client.connection.end(1, TRAILERS)
    assert [frame.kind for frame in client.received_frames()] == [frames.HEADERS]
    client.connection.pause_sending(False)
    assert [frame.payload for frame in client.received_frames()] == [b"one", b"two", TRAILERS]
    assert client.connection.unsent_bytes == 0


def test_dynamic_table_size_update_is_a_compression_error() -> None:
    """The client has acknowledged SETTINGS_HEADER_TABLE_SIZE 0 before."""
    client = RawClient()
    [terminated] = client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x20\x3f\xe1\x1f\x82"))
    assert isinstance(terminated, ConnectionTerminated)
    assert terminated.code is ErrorCode.COMPRESSION_ERROR


CLIENT_BYTES = (
    frames.PREFACE
    + frames.settings_frame({})
    + headers(1)
    + data(1, b"first")
    + frames.frame(frames.SETTINGS, frames.ACK, 0)
    + headers(3, end=True)
    + data(1, b"x" * 300)
    + PING
    + frames.frame(frames.HEADERS, 0, 5, b"\x83\x86")
    + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 5, b"\x84")
    + frames.rst_stream(3, ErrorCode.CANCEL)
    + frames.frame(0xBE, 0, 0, b"unknown")
    + headers(7, [*REQUEST, ("Upper", "x")])
    + data(1, b"", end=True)
    + frames.frame(frames.GOAWAY, 0, 0, bytes(8))
    + data(5, b"y", end=True)
    + data(5, b"z")
    + frames.frame(frames.PING, 0, 0, b"short")
)


def receive_pieces(pieces: list[bytes]) -> tuple[list[Event], bytes]:
    connection = Connection(HeaderBlockCache())
    events: list[Event] = []
    output = b""
    for piece in pieces:
        events += connection.receive(piece, 0.0)
        output += connection.data_to_send()
    return events, output


@given(st.lists(st.integers(0, len(CLIENT_BYTES)), max_size=20))
def test_events_do_not_depend_on_how_bytes_are_split(cuts: list[int]) -> None:
    """Any split of the bytes gives the same events and the same output."""
    edges = [0, *sorted(cuts), len(CLIENT_BYTES)]
    pieces = [CLIENT_BYTES[start:end] for start, end in pairwise(edges)]
    assert receive_pieces(pieces) == receive_pieces([CLIENT_BYTES])


def test_single_bytes_give_each_event_once() -> None:
    """The client's bytes arrive one at a time."""
    events, _ = receive_pieces([CLIENT_BYTES[index : index + 1] for index in range(len(CLIENT_BYTES))])
    assert [type(event) for event in events] == [
        RequestReceived, DataReceived, RequestReceived, DataReceived, RequestReceived,
        StreamReset, DataReceived, DataReceived, StreamReset, ConnectionTerminated,
    ]  # fmt: skip
