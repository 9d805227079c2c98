"""Attacks that HTTP/2 servers have known, and the limits that stop each."""

from collections.abc import Callable

import pytest
from http2_peer import ANSWER, REQUEST, TRAILERS, RawClient, data, headers
from picker.grpc_server.http2 import frames, limits
from picker.grpc_server.http2.events import ConnectionTerminated
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.headers import encode_headers

CALM = ErrorCode.ENHANCE_YOUR_CALM


def sent_until_stopped(client: RawClient, attack: Callable[[int], bytes], most: int) -> int:
    """How often `attack` was sent until the server gave up on the peer, for the reason it gives to those who flood."""
    for count in range(1, most + 1):
        client.send(attack(count))
        if client.connection.closed:
            assert client.goaway().code is CALM
            return count
        client.answers()
    raise AssertionError(f"{most} times, and the server still listens")


def test_rapid_reset() -> None:
    """Requests taken back before they are answered (CVE-2023-44487)."""
    count = sent_until_stopped(
        RawClient(), lambda n: headers(2 * n + 1) + frames.rst_stream(2 * n + 1, ErrorCode.CANCEL), 5_000
    )
    assert count == limits.CALM_RESETS + 1


def test_made_you_reset() -> None:
    """Requests that the server has to reset, because the client breaks a rule on each (CVE-2025-8671)."""
    count = sent_until_stopped(
        RawClient(), lambda n: headers(2 * n + 1) + frames.window_update(2 * n + 1, frames.MAX_WINDOW_BYTES), 5_000
    )
    assert count == limits.CALM_RESETS + 1


def test_clients_that_leave_after_the_first_answer_are_no_attack() -> None:
    """A proxy resets the stream of every client that leaves early."""
    client = RawClient()
    for stream_id in range(1, 20_000, 2):
        client.request(stream_id)
        client.connection.respond(stream_id, ANSWER)
        client.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
        client.answers()
    assert not client.connection.closed


def test_resets_are_forgiven_with_time() -> None:
    """A hundred a second may go on for ever."""
    client = RawClient()
    for count in range(5_000):
        client.now_s = count / limits.CALM_RESETS_PER_S
        client.send(headers(2 * count + 1) + frames.rst_stream(2 * count + 1, ErrorCode.CANCEL))
        client.answers()
    assert not client.connection.closed


@pytest.mark.parametrize(
    ("frame", "cost"),
    [
        (frames.settings_frame({}), limits.CALM_SETTINGS),
        (frames.frame(frames.PING, 0, 0, bytes(8)), 1),
        (frames.frame(frames.PRIORITY, 0, 1, bytes(5)), 1),
        (data(1, b""), 1),
        (frames.window_update(0, 1), 1),
        (frames.window_update(1, 1), 1),
        (frames.frame(0xFA, 0, 0, b""), 1),
    ],
    ids=["SETTINGS", "PING", "PRIORITY", "empty DATA", "WINDOW_UPDATE", "WINDOW_UPDATE of a stream", "unknown"],
)
def test_floods_of_frames_that_carry_nothing(frame: bytes, cost: int) -> None:
    """CVE-2019-9512, -9515, -9513, -9518 and their like."""
    client = RawClient()
    client.request()
    assert sent_until_stopped(client, lambda _: frame, 5_000) <= limits.CALM_FRAMES // cost + 1


def test_a_connection_kept_alive_by_pings_lives() -> None:
    """Ten a second for an hour."""
    client = RawClient()
    for count in range(36_000):
        client.now_s = count / 10
        client.send(frames.frame(frames.PING, 0, 0, bytes(8)))
        client.answers()
    assert not client.connection.closed


def test_work_makes_up_for_window_updates() -> None:
    """Two of them for each message are what a proxy sends."""
    client = RawClient()
    client.request()
    for _ in range(10_000):
        client.send(data(1, b"x") + frames.window_update(1, 1) + frames.window_update(0, 1))
        client.answers()
    assert not client.connection.closed


def test_continuation_flood() -> None:
    """A header block without end (CVE-2024-27316), whether its pieces are full or empty."""
    for piece in (b"", b"x" * 1000):
        client = RawClient()
        client.send(frames.frame(frames.HEADERS, 0, 1, b""))
        count = sent_until_stopped(client, lambda _, piece=piece: frames.frame(frames.CONTINUATION, 0, 1, piece), 100)
        assert count <= limits.MAX_CONTINUATIONS + 1


def test_oversized_headers() -> None:
    """As sent, and as decoded: a block may stand for more than its own bytes."""
    client = RawClient()
    block = encode_headers([*REQUEST, ("x", "x" * limits.MAX_HEADER_BYTES)])
    client.send(frames.frame(frames.HEADERS, 0, 1, block[:1000]))
    client.send(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[1000:17_000]))
    assert client.goaway().code is CALM
    bomb = RawClient(greets=False)
    bomb.send(frames.PREFACE + frames.settings_frame({}))
    entered = b"\x40\x01x\x7f\x81\x17" + b"y" * 3_200
    bomb.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, entered + b"\xbe" * 1_000))
    assert bomb.goaway().code is CALM


def test_too_many_streams() -> None:
    """One more than allowed is refused, which the client may try again elsewhere; when one ends, there is room."""
    client = RawClient()
    for number in range(limits.MAX_STREAMS):
        client.request(2 * number + 1)
    client.answers()
    late = 2 * limits.MAX_STREAMS + 1
    assert client.request(late) == []
    [refused] = client.answers()
    assert (refused.stream_id, refused.code) == (late, ErrorCode.REFUSED_STREAM)
    client.connection.end(1, TRAILERS)
    assert len(client.request(late + 2)) == 1


def test_a_slow_reader_gets_no_more_window() -> None:
    """It asks with large bodies and takes no answers: what waits is bounded by both windows."""
    client = RawClient()
    stream_id, sent = 1, 0
    while not client.connection.closed and sent < 1_000:
        client.request(stream_id)
        events = client.send(data(stream_id, bytes(1 << 14)) * 64)
        if not isinstance(events[-1], ConnectionTerminated):
            client.connection.respond(stream_id, ANSWER)
            client.connection.send(stream_id, bytes(1 << 20))
        stream_id += 2
        sent += 1
    assert client.connection.closed
    assert sent <= (limits.UNSENT_BYTES + limits.CONNECTION_WINDOW_BYTES + (1 << 20)) >> 20


def test_answers_that_are_never_taken_end_the_connection() -> None:
    """Small questions with large answers."""
    client = RawClient()
    stream_id = 1
    while not client.connection.closed:
        client.request(stream_id, end=True)
        client.connection.respond(stream_id, ANSWER)
        client.connection.send(stream_id, bytes(4 << 20))
        stream_id += 2
        assert stream_id < 1_000
    assert client.goaway().code is CALM
    assert client.connection.unsent_bytes == 0


def test_what_a_window_opens_is_spread_over_streams_in_constant_time() -> None:
    """A thousand blocked streams are not gone through for each byte that the connection's window opens."""
    client = RawClient()
    for number in range(1_000):
        client.request(2 * number + 1, end=True)
        client.connection.respond(2 * number + 1, ANSWER)
        client.connection.send(2 * number + 1, bytes(100))
    client.answers()
    for _ in range(100):
        client.send(frames.window_update(0, 1))
        assert len([frame for frame in client.answers() if frame.kind == frames.DATA]) == 1
