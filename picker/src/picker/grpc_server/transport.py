"""Sockets' side of the edge: bytes from and to one peer."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from picker.grpc_server.call import Call, Method
from picker.grpc_server.calls import CallDispatcher
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.headers import HeaderBlockCache

HANDSHAKE_TIMEOUT_S = 10.0
"""For TLS's handshake: as long as for the first word after it."""

SETTINGS_TIMEOUT_S = 10.0
"""For a peer that has connected to say something. Envoy's preface is in its first packet."""

LINGER_S = 2.0
"""For a peer to close after the last word to it. Closing first, with bytes of it unread, would make the kernel throw
that word away."""

STALL_TIMEOUT_S = 60.0
"""For a peer to take some of what waits for it. Envoy reads at once; one that does not for this long is stuck, and what
waits for it is memory."""

WRITE_BUFFER_BYTES = 1 << 20
"""In the transport before a peer counts as slow: then nothing more is read from it, so that nothing more has to be
answered."""

UNUSED_TIMEOUT_S = 30.0
"""For the first call on a connection. Envoy opens one because it has a call to make."""

IDLE_TIMEOUT_S = 600.0
"""Without a call, before a connection is closed in good order. Envoy opens another with its next request; its own limit
is an hour."""

GOAWAY_TIMEOUT_S = 10.0
"""For a peer to hang up, or to answer the PING that goes with GOAWAY, once it has no call."""

KEEPALIVE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 20, 5, 4
"""A peer whose machine is gone never closes its connection: after 40 s of silence the kernel does, and the requests it
had in flight are no longer counted."""


class ConnectionRegistry(Protocol):
    """Who wants to know which connections there are."""

    def opened(self, peer: "GrpcProtocol") -> None:
        """Called before anything is written; may cut the connection."""
        ...

    def closed(self, peer: "GrpcProtocol") -> None: ...


class GrpcProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        peers: ConnectionRegistry,
        kept: HeaderBlockCache,
        methods: Mapping[str, Method],
        deadlines: Deadlines[Call],
        clock: Callable[[], float],
        load: ConnectionLimits | None = None,
    ) -> None:
        self._peers = peers
        self._clock = clock
        self._connection = Connection(kept)
        self._calls = CallDispatcher(self._connection, methods, deadlines, self._write, load)
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._said_last = False
        self._moved_s = clock()
        self._idle_since_s: float | None = self._moved_s
        """None while there are calls."""

    @property
    def open_calls(self) -> int:
        return len(self._calls)

    def drain(self) -> None:
        """See `CallDispatcher.drain`."""
        self._calls.drain()

    def end_silent(self, now_s: float, limit_s: float) -> None:
        """See `CallDispatcher.end_silent`."""
        self._calls.end_silent(now_s, limit_s)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def check(self, now_s: float) -> None:
        """Cut the connection if the peer has kept us waiting too long."""
        if self._said_last:
            allowed_s = LINGER_S
        elif not self._connection.settings_received:
            allowed_s = SETTINGS_TIMEOUT_S
        elif self._paused or self._connection.unsent_bytes > 0:
            allowed_s = STALL_TIMEOUT_S
        else:
            self._moved_s = now_s
            self._check_idle(now_s)
            return
        if now_s - self._moved_s > allowed_s:
            self.abort()

    def _check_idle(self, now_s: float) -> None:
        """Close a connection that is not used: in good order, and by force where the peer does not join in."""
        if len(self._calls):
            self._idle_since_s = None
            return
        if self._idle_since_s is None:
            self._idle_since_s = now_s
        idle_s = now_s - self._idle_since_s
        limit_s = IDLE_TIMEOUT_S if self._calls.began else UNUSED_TIMEOUT_S
        if idle_s > limit_s + GOAWAY_TIMEOUT_S:
            self.abort()
        elif idle_s > limit_s and not self._calls.draining:
            self._calls.drain()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        _keep_alive(self._transport)
        self._peers.opened(self)
        self._write()

    def data_received(self, data: bytes) -> None:
        self._calls.receive(data, self._clock())
        self._write()

    def pause_writing(self) -> None:
        self._paused = True
        self._connection.pause_sending(True)
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._connection.pause_sending(False)
        if self._transport is not None:
            self._transport.resume_reading()
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._calls.lost()
        self._peers.closed(self)

    def _write(self) -> None:
        transport = self._transport
        if transport is None:
            return
        output = self._connection.data_to_send()
        if output:
            transport.write(output)
            if self._connection.unsent_bytes:
                self._moved_s = self._clock()
        if self._connection.closed and not self._said_last:
            self._said_last = True
            self._moved_s = self._clock()
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()


def _keep_alive(transport: asyncio.Transport) -> None:
    connection = cast("socket.socket | None", transport.get_extra_info("socket"))
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
