"""Processing time is linear in the length of what a proxy sends, for every shape of it."""

import time
from collections.abc import Callable

import pytest
from exchange_conversation import FakeDirector
from http2_peer import REQUEST, headers
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.stream import PROCESS, process
from picker.grpc_server.call import Call
from picker.grpc_server.calls import CallDispatcher
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.framing import framed
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.headers import HeaderBlockCache, encode_headers
from wire_messages import body_message, headers_message

FIELDS = list((dict(REQUEST) | {":path": PROCESS}).items())
SERVER_PREFACE = frames.PREFACE + frames.settings_frame({}) + frames.frame(frames.SETTINGS, frames.ACK, 0)


def _in_data(message: bytes, size: int) -> bytes:
    """A request with `message` in DATA frames of `size` bytes."""
    sent = framed(message)
    pieces = [frames.frame(frames.DATA, 0, 1, sent[at : at + size]) for at in range(0, len(sent), size)]
    return SERVER_PREFACE + headers(1, FIELDS) + b"".join(pieces)


def _many_headers(count: int) -> bytes:
    return _in_data(headers_message(**{f"x_{number}": "y" for number in range(count)}), 16_384)


def _tiny_messages(count: int) -> bytes:
    first = framed(headers_message())
    sent = first + framed(body_message(b"x", end=False)) * count
    pieces = [frames.frame(frames.DATA, 0, 1, sent[at : at + 16_384]) for at in range(0, len(sent), 16_384)]
    return SERVER_PREFACE + headers(1, FIELDS) + b"".join(pieces)


def _repeated_fields(count: int) -> bytes:
    """Requests whose header blocks have as many fields of one name as fit."""
    block = encode_headers([*FIELDS, *[("a", "b")] * 300])
    return SERVER_PREFACE + b"".join(
        frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 2 * number + 1, block)
        for number in range(count)
    )


def _streams(count: int) -> bytes:
    return SERVER_PREFACE + b"".join(headers(2 * number + 1, FIELDS) for number in range(count))


SHAPES: dict[str, tuple[Callable[[int], bytes], int]] = {
    "one byte a frame": (lambda count: _in_data(headers_message(x="y" * count), 1), 10_000),
    "one large message": (lambda count: _in_data(headers_message(x="y" * count), 16_384), 400_000),
    "many headers": (_many_headers, 2_000),
    "tiny messages": (_tiny_messages, 2_000),
    "repeated fields": (_repeated_fields, 20),
    "streams": (_streams, 500),
}


def _cost_s(data: bytes, read_bytes: int) -> float:
    connection = Connection(HeaderBlockCache())
    methods = {PROCESS: process(lambda: Exchange(FakeDirector(), Limits()))}
    deadlines: Deadlines[Call] = Deadlines()
    calls = CallDispatcher(connection, methods, deadlines, lambda: None)
    reads = [data[at : at + read_bytes] for at in range(0, len(data), read_bytes)]
    began_s = time.process_time()
    for read in reads:
        calls.receive(read, 1.0)
    took_s = time.process_time() - began_s
    assert not connection.closed
    return took_s


@pytest.mark.parametrize("read_bytes", [100, 1 << 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_as_much_takes_four_times_as_long(shape: str, read_bytes: int) -> None:
    """Quadratic time would be sixteen times as long. The minimum of several runs excludes other load."""
    make, count = SHAPES[shape]
    small, large = make(count), make(4 * count)
    least_s = min(_cost_s(small, read_bytes) for _ in range(4))
    assert min(_cost_s(large, read_bytes) for _ in range(4)) < 10 * least_s + 0.002
