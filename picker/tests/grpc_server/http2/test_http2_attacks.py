"""Known attacks on HTTP/2 servers, and the limits that stop each."""

from collections.abc import Callable

import pytest
from http2_peer import ANSWER, REQUEST, TRAILERS, RawClient, data, headers
from picker.grpc_server.http2 import frames, limits
from picker.grpc_server.http2.events import ConnectionTerminated
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.headers import encode_headers

CALM = ErrorCode.ENHANCE_YOUR_CALM


def attempts_until_closed(client: RawClient, attack: Callable[[int], bytes], max_attempts: int) -> int:
    """Sends `attack` until the server closes with ENHANCE_YOUR_CALM, and returns how often it was sent."""
    for count in range(1, max_attempts + 1):
        client.send(attack(count))
        if client.connection.closed:
            assert client.goaway().code is CALM
            return count
        client.received_frames()
    raise AssertionError(f"the server still accepts frames after {max_attempts} attempts")


def test_rapid_reset_closes_the_connection() -> None:
    """Requests are reset before their response (CVE-2023-44487)."""
    count = attempts_until_closed(
        RawClient(), lambda n: headers(2 * n + 1) + frames.rst_stream(2 * n + 1, ErrorCode.CANCEL), 5_000
    )
    assert count == limits.RESET_BUDGET + 1


def test_made_you_reset_closes_the_connection() -> None:
    """The client provokes a stream error on each request, so that the server resets it (CVE-2025-8671)."""
    count = attempts_until_closed(
        RawClient(), lambda n: headers(2 * n + 1) + frames.window_update(2 * n + 1, frames.MAX_WINDOW_BYTES), 5_000
    )
    assert count == limits.RESET_BUDGET + 1


def test_resets_after_response_headers_are_not_limited() -> None:
    """A proxy resets the stream of every client that disconnects early."""
    client = RawClient()
    for stream_id in range(1, 20_000, 2):
        client.request(stream_id)
        client.connection.respond(stream_id, ANSWER)
        client.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
        client.received_frames()
    assert not client.connection.closed


def test_reset_budget_refills_with_time() -> None:
    """RESETS_PER_S resets a second are allowed without end."""
    client = RawClient()
    for count in range(5_000):
        client.now_s = count / limits.RESETS_PER_S
        client.send(headers(2 * count + 1) + frames.rst_stream(2 * count + 1, ErrorCode.CANCEL))
        client.received_frames()
    assert not client.connection.closed


@pytest.mark.parametrize(
    ("frame", "cost"),
    [
        (frames.settings_frame({}), limits.SETTINGS_COST),
        (frames.frame(frames.PING, 0, 0, bytes(8)), 1),
        (frames.frame(frames.PRIORITY, 0, 1, bytes(5)), 1),
        (data(1, b""), 1),
        (frames.window_update(0, 1), 1),
        (frames.window_update(1, 1), 1),
        (frames.frame(0xFA, 0, 0, b""), 1),
    ],
    ids=["SETTINGS", "PING", "PRIORITY", "empty DATA", "WINDOW_UPDATE", "WINDOW_UPDATE of a stream", "unknown"],
)
def test_flood_of_empty_frames_closes_the_connection(frame: bytes, cost: int) -> None:
    """CVE-2019-9512, -9515, -9513, -9518 and similar floods."""
    client = RawClient()
    client.request()
    assert attempts_until_closed(client, lambda _: frame, 5_000) <= limits.EMPTY_FRAME_BUDGET // cost + 1


def test_keepalive_pings_are_not_limited() -> None:
    """Ten PINGs a second for an hour."""
    client = RawClient()
    for count in range(36_000):
        client.now_s = count / 10
        client.send(frames.frame(frames.PING, 0, 0, bytes(8)))
        client.received_frames()
    assert not client.connection.closed


def test_data_frames_refund_window_updates() -> None:
    """A proxy sends two WINDOW_UPDATE frames for each message."""
    client = RawClient()
    client.request()
    for _ in range(10_000):
        client.send(data(1, b"x") + frames.window_update(1, 1) + frames.window_update(0, 1))
        client.received_frames()
    assert not client.connection.closed


def test_continuation_flood_closes_the_connection() -> None:
    """A header block never ends (CVE-2024-27316); its fragments are full or empty."""
    for piece in (b"", b"x" * 1000):
        client = RawClient()
        client.send(frames.frame(frames.HEADERS, 0, 1, b""))
        count = attempts_until_closed(
            client, lambda _, piece=piece: frames.frame(frames.CONTINUATION, 0, 1, piece), 100
        )
        assert count <= limits.MAX_CONTINUATIONS + 1


def test_oversized_headers_close_the_connection() -> None:
    """The limit applies to the block as sent and as decoded, because a block may decode to more than its own bytes."""
    client = RawClient()
    block = encode_headers([*REQUEST, ("x", "x" * limits.MAX_HEADER_BYTES)])
    client.send(frames.frame(frames.HEADERS, 0, 1, block[:1000]))
    client.send(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[1000:17_000]))
    assert client.goaway().code is CALM
    bomb = RawClient(sends_preface=False)
    bomb.send(frames.PREFACE + frames.settings_frame({}))
    entered = b"\x40\x01x\x7f\x81\x17" + b"y" * 3_200
    bomb.send(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, entered + b"\xbe" * 1_000))
    assert bomb.goaway().code is CALM


def test_stream_beyond_the_limit_is_refused() -> None:
    """The client may retry a refused stream on another connection. A stream that ends makes room."""
    client = RawClient()
    for number in range(limits.MAX_STREAMS):
        client.request(2 * number + 1)
    client.received_frames()
    excess_id = 2 * limits.MAX_STREAMS + 1
    assert client.request(excess_id) == []
    [refused] = client.received_frames()
    assert (refused.stream_id, refused.code) == (excess_id, ErrorCode.REFUSED_STREAM)
    client.connection.end(1, TRAILERS)
    assert len(client.request(excess_id + 2)) == 1


def test_slow_reader_gets_no_more_window() -> None:
    """The client sends large bodies and reads no responses: both windows bound the buffered bytes."""
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


def test_unread_responses_close_the_connection() -> None:
    """Small requests have large responses."""
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


def test_window_update_costs_constant_time_per_blocked_stream() -> None:
    """A WINDOW_UPDATE of one byte sends one frame, and does not visit a thousand blocked streams."""
    client = RawClient()
    for number in range(1_000):
        client.request(2 * number + 1, end=True)
        client.connection.respond(2 * number + 1, ANSWER)
        client.connection.send(2 * number + 1, bytes(100))
    client.received_frames()
    for _ in range(100):
        client.send(frames.window_update(0, 1))
        assert len([frame for frame in client.received_frames() if frame.kind == frames.DATA]) == 1
