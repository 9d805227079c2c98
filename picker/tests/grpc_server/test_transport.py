"""Peers that keep the server waiting; time is a number here."""

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
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
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
        return lambda: self.told.append(name)


class Connected:
    """A peer on a fake transport, at second 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.peers: list[GrpcProtocol] = []
        self.transport = FakeTransport()
        methods = {"/service/Method": lambda context, stream_id, _head: NotGrpcCall(context, stream_id, 415)}
        self.peer = GrpcProtocol(self, HeaderBlockCache(), methods, Deadlines(), lambda: self.now_s)
        self.peer.connection_made(self.transport)  # type: ignore[arg-type]

    def opened(self, peer: GrpcProtocol) -> None:
        self.peers.append(peer)

    def closed(self, peer: GrpcProtocol) -> None:
        self.peers.remove(peer)

    def cut_after(self, seconds: float) -> bool:
        """Whether the connection is cut by then, and not much before."""
        start_s = self.now_s
        for now_s in (start_s, start_s + seconds - 0.5):
            self.peer.check(now_s)
            assert "abort" not in self.transport.told
        self.peer.check(start_s + seconds + 0.5)
        return "abort" in self.transport.told


def test_a_peer_that_says_nothing_is_cut() -> None:
    """A port scanner, or a proxy that has hung."""
    assert Connected().cut_after(transport.SETTINGS_TIMEOUT_S)


def test_a_peer_that_greets_and_asks_nothing_is_sent_away() -> None:
    """By GOAWAY first, and then by force."""
    connected = Connected()
    connected.peer.data_received(SERVER_PREFACE)
    written = len(connected.transport.written)
    connected.peer.check(transport.UNUSED_TIMEOUT_S - 1)
    assert len(connected.transport.written) == written
    connected.peer.check(transport.UNUSED_TIMEOUT_S + 1)
    assert frames_of(connected.transport.written[written:])[0].kind == frames.GOAWAY
    assert connected.transport.told == []
    connected.peer.check(transport.UNUSED_TIMEOUT_S + transport.GOAWAY_TIMEOUT_S + 1)
    assert connected.transport.told == ["abort"]


def test_a_connection_that_had_calls_may_be_idle_longer() -> None:
    """And with an open call for as long as that lasts."""
    connected = Connected()
    connected.peer.data_received(SERVER_PREFACE + headers(1))
    for day in range(10):
        connected.peer.check(day * 86_400.0)
    connected.peer.data_received(data(1, b"", end=True))
    connected.peer.check(10 * 86_400.0)
    written = len(connected.transport.written)
    connected.peer.check(10 * 86_400.0 + transport.IDLE_TIMEOUT_S - 1)
    assert len(connected.transport.written) == written
    connected.peer.check(10 * 86_400.0 + transport.IDLE_TIMEOUT_S + 1)
    assert frames_of(connected.transport.written[written:])[0].kind == frames.GOAWAY
    assert connected.transport.told == []


def test_a_peer_that_opens_no_window_is_cut() -> None:
    """An answer waits for it, and it takes nothing."""
    connected = Connected()
    closed_window = frames.PREFACE + frames.settings_frame({frames.Setting.INITIAL_WINDOW_SIZE: 0})
    connected.peer.data_received(closed_window + headers(1, end=True))
    assert connected.cut_after(transport.STALL_TIMEOUT_S)


def test_a_peer_that_does_not_read_is_not_read_from_and_then_cut() -> None:
    """Its own requests are what there would be to answer."""
    connected = Connected()
    connected.peer.data_received(SERVER_PREFACE)
    connected.peer.pause_writing()
    assert connected.transport.told == ["pause_reading"]
    assert connected.cut_after(transport.STALL_TIMEOUT_S)


def test_a_peer_that_reads_again_is_read_from_again() -> None:
    """And gets what was held back."""
    connected = Connected()
    connected.peer.data_received(SERVER_PREFACE + headers(1))
    connected.peer.pause_writing()
    connected.transport.written = b""
    connected.peer.data_received(data(1, b"", end=True))
    assert b"speaks gRPC" not in connected.transport.written
    connected.peer.resume_writing()
    assert b"speaks gRPC" in connected.transport.written
    assert connected.transport.told == ["pause_reading", "resume_reading"]


def test_a_peer_that_does_not_hang_up_is_cut() -> None:
    """After the last word to it, and some time to read that."""
    connected = Connected()
    connected.peer.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert connected.transport.told == ["write_eof"]
    assert connected.cut_after(transport.LINGER_S)


@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_is_lost_once(times: int) -> None:
    """Whoever closed it."""
    connected = Connected()
    connected.peer.connection_lost(None)
    assert connected.peers == []
    for _ in range(times):
        connected.peer.abort()
        connected.peer.drain()
