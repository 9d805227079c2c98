"""Time limits on protocols; the clock is a number of the test."""

import pytest
from http2_peer import data, frames_of, headers
from picker.grpc_server import transport
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.headers import HeaderBlockCache
from picker.grpc_server.not_grpc import NotGrpcCall
from picker.grpc_server.transport import GrpcProtocol

SERVER_PREFACE = frames.PREFACE + frames.settings_frame({})


class FakeTransport:
    """Records the calls of its methods."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, _name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == transport.WRITE_BUFFER_BYTES

    def can_write_eof(self) -> bool:
        return True

    def __getattr__(self, name: str) -> object:
        return lambda: self.calls.append(name)


class FakeConnection:
    """A connection on a fake transport, at second 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.protocols: list[GrpcProtocol] = []
        self.transport = FakeTransport()
        methods = {"/service/Method": lambda context, stream_id, _head: NotGrpcCall(context, stream_id, 415)}
        self.protocol = GrpcProtocol(self, HeaderBlockCache(), methods, Deadlines(), lambda: self.now_s)
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    def opened(self, protocol: GrpcProtocol) -> None:
        self.protocols.append(protocol)

    def closed(self, protocol: GrpcProtocol) -> None:
        self.protocols.remove(protocol)

    def aborted_after(self, seconds: float) -> bool:
        """Returns whether the connection is aborted within half a second after `seconds`."""
        start_s = self.now_s
        for now_s in (start_s, start_s + seconds - 0.5):
            self.protocol.check(now_s)
            assert "abort" not in self.transport.calls
        self.protocol.check(start_s + seconds + 0.5)
        return "abort" in self.transport.calls


def test_peer_without_preface_is_aborted() -> None:
    """It may be a port scanner, or a proxy that hangs."""
    assert FakeConnection().aborted_after(transport.SETTINGS_TIMEOUT_S)


def test_connection_without_a_call_is_closed() -> None:
    """By GOAWAY first, then by force."""
    connection = FakeConnection()
    connection.protocol.data_received(SERVER_PREFACE)
    written = len(connection.transport.written)
    connection.protocol.check(transport.UNUSED_TIMEOUT_S - 1)
    assert len(connection.transport.written) == written
    connection.protocol.check(transport.UNUSED_TIMEOUT_S + 1)
    assert frames_of(connection.transport.written[written:])[0].kind == frames.GOAWAY
    assert connection.transport.calls == []
    connection.protocol.check(transport.UNUSED_TIMEOUT_S + transport.GOAWAY_TIMEOUT_S + 1)
    assert connection.transport.calls == ["abort"]


def test_connection_with_past_calls_may_be_idle_longer() -> None:
    """With an open call it is not closed."""
    connection = FakeConnection()
    connection.protocol.data_received(SERVER_PREFACE + headers(1))
    for day in range(10):
        connection.protocol.check(day * 86_400.0)
    connection.protocol.data_received(data(1, b"", end=True))
    connection.protocol.check(10 * 86_400.0)
    written = len(connection.transport.written)
    connection.protocol.check(10 * 86_400.0 + transport.IDLE_TIMEOUT_S - 1)
    assert len(connection.transport.written) == written
    connection.protocol.check(10 * 86_400.0 + transport.IDLE_TIMEOUT_S + 1)
    assert frames_of(connection.transport.written[written:])[0].kind == frames.GOAWAY
    assert connection.transport.calls == []


def test_peer_that_opens_no_window_is_aborted() -> None:
    """A response waits for the window."""
    connection = FakeConnection()
    closed_window = frames.PREFACE + frames.settings_frame({frames.Setting.INITIAL_WINDOW_SIZE: 0})
    connection.protocol.data_received(closed_window + headers(1, end=True))
    assert connection.aborted_after(transport.STALL_TIMEOUT_S)


def test_slow_peer_is_not_read_from_and_then_aborted() -> None:
    """Its requests would only add responses to the buffer."""
    connection = FakeConnection()
    connection.protocol.data_received(SERVER_PREFACE)
    connection.protocol.pause_writing()
    assert connection.transport.calls == ["pause_reading"]
    assert connection.aborted_after(transport.STALL_TIMEOUT_S)


def test_reading_resumes_when_the_peer_reads_again() -> None:
    """The protocol gets the data that waited."""
    connection = FakeConnection()
    connection.protocol.data_received(SERVER_PREFACE + headers(1))
    connection.protocol.pause_writing()
    connection.transport.written = b""
    connection.protocol.data_received(data(1, b"", end=True))
    assert b"speaks gRPC" not in connection.transport.written
    connection.protocol.resume_writing()
    assert b"speaks gRPC" in connection.transport.written
    assert connection.transport.calls == ["pause_reading", "resume_reading"]


def test_peer_that_does_not_close_is_aborted() -> None:
    """It has LINGER_S to read the last bytes."""
    connection = FakeConnection()
    connection.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert connection.transport.calls == ["write_eof"]
    assert connection.aborted_after(transport.LINGER_S)


@pytest.mark.parametrize("times", [1, 2])
def test_calls_after_connection_lost_do_nothing(times: int) -> None:
    """`abort` and `drain` must not raise."""
    connection = FakeConnection()
    connection.protocol.connection_lost(None)
    assert connection.protocols == []
    for _ in range(times):
        connection.protocol.abort()
        connection.protocol.drain()
