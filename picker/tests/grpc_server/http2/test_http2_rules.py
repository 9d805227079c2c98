"""What the protocol asks of a server, frame by frame; h2spec asks for more of it over a socket."""

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


def test_the_server_greets_first() -> None:
    """Before the client has said anything: SETTINGS, and the connection's window."""
    settings, window = RawClient(greets=False).answers()
    assert (settings.kind, settings.flags) == (frames.SETTINGS, 0)
    assert window.kind == frames.WINDOW_UPDATE


def test_a_ping_comes_back() -> None:
    """With its payload."""
    client = RawClient()
    client.send(PING)
    [pong] = client.answers()
    assert (pong.kind, pong.flags, pong.payload) == (frames.PING, frames.ACK, b"12345678")


def test_another_protocol_is_told_so() -> None:
    """HTTP/1.1 on this port."""
    client = RawClient(greets=False)
    [failed] = client.send(b"GET / HTTP/1.1\r\nhost: picker\r\n\r\n")
    assert failed == ConnectionTerminated(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2 by prior knowledge")
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
def test_what_breaks_a_connection(sent: bytes, code: ErrorCode) -> None:
    """GOAWAY with the error's code, a Failed event, and silence whatever comes after."""
    client = RawClient()
    failed = client.send(sent)[-1]
    assert isinstance(failed, ConnectionTerminated)
    assert failed.code is code
    assert client.goaway().code is code
    assert client.send(PING) == []
    assert client.answers() == []


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
def test_what_breaks_a_stream(sent: bytes, code: ErrorCode) -> None:
    """RST_STREAM with the error's code; other streams go on."""
    client = RawClient()
    events = client.send(sent)
    resets = [frame for frame in client.answers() if frame.kind == frames.RST_STREAM]
    assert [(reset.stream_id, reset.code) for reset in resets] == [(1, code)]
    assert not any(isinstance(event, ConnectionTerminated) for event in events)
    assert [type(event) for event in client.request(9, end=True)] == [RequestReceived]


def test_a_stream_that_breaks_is_told_as_aborted() -> None:
    """Who serves it learns of its end."""
    client = RawClient()
    client.request()
    assert client.send(headers(1, [(":path", "/")], end=True)) == [StreamReset(1, ErrorCode.PROTOCOL_ERROR)]


def test_more_data_than_the_window_breaks_the_connection() -> None:
    """Windows that no WINDOW_UPDATE opened any more, because the peer takes no answers."""
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


def test_windows_are_opened_when_half_is_used() -> None:
    """One WINDOW_UPDATE for megabytes of a stream."""
    client = RawClient()
    client.request()
    for _ in range(7):
        client.send(data(1, bytes(1 << 14)) * 64)
        assert client.answers() == []
    client.send(data(1, bytes(1 << 14)) * 64)
    [update] = client.answers()
    assert (update.kind, update.stream_id) == (frames.WINDOW_UPDATE, 1)
    assert frames.read_word(update.payload) == (8 << 20,)


def test_a_connection_that_shuts_down_serves_what_has_begun() -> None:
    """Two GOAWAYs, a round trip apart, so that a request on its way is not lost; closed after the last answer."""
    client = RawClient()
    client.request(1, end=True)
    client.connection.shut_down()
    first, ping = client.answers()
    assert (first.kind, first.payload[:4]) == (frames.GOAWAY, b"\x7f\xff\xff\xff")
    assert [type(event) for event in client.request(3, end=True)] == [RequestReceived]
    client.send(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
    [last] = client.answers()
    assert (last.kind, last.payload[:4], last.code) == (frames.GOAWAY, b"\0\0\0\x03", ErrorCode.NO_ERROR)
    assert client.request(5, end=True) == []
    [refused] = client.answers()
    assert (refused.stream_id, refused.code) == (5, ErrorCode.REFUSED_STREAM)
    for stream_id in (1, 3):
        assert not client.connection.closed
        client.connection.respond(stream_id, ANSWER)
        client.connection.end(stream_id, TRAILERS)
    assert client.connection.closed


def test_an_idle_connection_shuts_down_at_once() -> None:
    """After the round trip."""
    client = RawClient()
    client.connection.shut_down()
    [_, ping] = client.answers()
    client.send(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
    assert client.connection.closed


def test_data_is_held_while_the_transport_is_full() -> None:
    """And goes out in order after it."""
    client = RawClient()
    client.request(end=True)
    client.connection.respond(1, ANSWER)
    client.connection.pause_sending(True)
    client.connection.send(1, b"one")
    client.connection.send(1, b"two")
    client.connection.end(1, TRAILERS)
    assert [frame.kind for frame in client.answers()] == [frames.HEADERS]
    client.connection.pause_sending(False)
    assert [frame.payload for frame in client.answers()] == [b"one", b"two", TRAILERS]
    assert client.connection.unsent_bytes == 0


def test_a_dynamic_table_is_not_used_once_given_up() -> None:
    """A block that would make one breaks the connection."""
    client = RawClient()
    [failed] = client.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x20\x3f\xe1\x1f\x82"))
    assert isinstance(failed, ConnectionTerminated)
    assert failed.code is ErrorCode.COMPRESSION_ERROR


CONVERSATION = (
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


def heard(pieces: list[bytes]) -> tuple[list[Event], bytes]:
    connection = Connection(HeaderBlockCache())
    events: list[Event] = []
    output = b""
    for piece in pieces:
        events += connection.receive(piece, 0.0)
        output += connection.data_to_send()
    return events, output


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=20))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    """Any split of the stream gives the same events and the same answers."""
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    pieces = [CONVERSATION[start:end] for start, end in pairwise(edges)]
    assert heard(pieces) == heard([CONVERSATION])


def test_the_conversation_cut_into_bytes() -> None:
    """Its events, once each."""
    events, _ = heard([CONVERSATION[index : index + 1] for index in range(len(CONVERSATION))])
    assert [type(event) for event in events] == [
        RequestReceived, DataReceived, RequestReceived, DataReceived, RequestReceived,
        StreamReset, DataReceived, DataReceived, StreamReset, ConnectionTerminated,
    ]  # fmt: skip
