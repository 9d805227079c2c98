"""The asyncio protocol of one connection: bytes from and to one peer, and the time limits on it."""

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
"""Limit for the TLS handshake. Judgement: the same as SETTINGS_TIMEOUT_S."""

SETTINGS_TIMEOUT_S = 10.0
"""Limit for a new peer to send its preface and SETTINGS. Envoy's preface is in its first packet."""

LINGER_S = 2.0
"""Limit for a peer to close after the last bytes were written. If the server closed first with unread bytes, the kernel
would send a reset and discard that output."""

STALL_TIMEOUT_S = 60.0
"""Limit for a peer to read some of the output that waits. Envoy reads at once. A peer that does not read for this long
is stuck, and the output occupies memory."""

WRITE_BUFFER_BYTES = 1 << 20
"""Bytes in the transport's buffer at which a peer counts as slow. Nothing is read from a slow peer, so that there are
no new requests to answer."""

UNUSED_TIMEOUT_S = 30.0
"""Limit for the first call on a connection. Envoy opens a connection when it has a call to make."""

IDLE_TIMEOUT_S = 600.0
"""Time without calls after which a connection is closed gracefully. Envoy opens another one for its next request; its
own limit is one hour."""

GOAWAY_TIMEOUT_S = 10.0
"""Limit for a peer without calls to close the connection, or to answer the PING that follows GOAWAY."""

KEEPALIVE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 20, 5, 4
"""TCP keepalive: idle time and interval in seconds, and count. A peer whose host is gone never closes its connection.
After 40 s of silence the kernel does, and its requests in flight end."""


class ConnectionRegistry(Protocol):
    """Registers the open connections; implemented by `listener.Listener`."""

    def opened(self, protocol: "GrpcProtocol") -> None:
        """Registers a new connection before anything is written; may abort it."""
        ...

    def closed(self, protocol: "GrpcProtocol") -> None: ...


class GrpcProtocol(asyncio.Protocol):
    """One connection of a listener."""

    def __init__(
        self,
        registry: ConnectionRegistry,
        header_cache: HeaderBlockCache,
        methods: Mapping[str, Method],
        deadlines: Deadlines[Call],
        clock: Callable[[], float],
        load: ConnectionLimits | None = None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._connection = Connection(header_cache)
        self._calls = CallDispatcher(self._connection, methods, deadlines, self._write, load)
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._finished_writing = False
        self._progress_s = clock()
        self._idle_since_s: float | None = self._progress_s
        """None while calls are open."""

    @property
    def open_calls(self) -> int:
        return len(self._calls)

    def drain(self) -> None:
        """Calls `CallDispatcher.drain`."""
        self._calls.drain()

    def end_silent(self, now_s: float, limit_s: float) -> None:
        """Calls `CallDispatcher.end_silent`."""
        self._calls.end_silent(now_s, limit_s)

    def abort(self) -> None:
        """Aborts the connection."""
        if self._transport is not None:
            self._transport.abort()

    def check(self, now_s: float) -> None:
        """Aborts the connection if the peer exceeds one of the time limits."""
        if self._finished_writing:
            allowed_s = LINGER_S
        elif not self._connection.settings_received:
            allowed_s = SETTINGS_TIMEOUT_S
        elif self._paused or self._connection.unsent_bytes > 0:
            allowed_s = STALL_TIMEOUT_S
        else:
            self._progress_s = now_s
            self._check_idle(now_s)
            return
        if now_s - self._progress_s > allowed_s:
            self.abort()

    def _check_idle(self, now_s: float) -> None:
        """Closes an idle connection: gracefully, then by force if the peer does not close it."""
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        _keep_alive(self._transport)
        self._registry.opened(self)
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
        self._registry.closed(self)

    def _write(self) -> None:
        transport = self._transport
        if transport is None:
            return
        output = self._connection.data_to_send()
        if output:
            transport.write(output)
            if self._connection.unsent_bytes:
                self._progress_s = self._clock()
        if self._connection.closed and not self._finished_writing:
            self._finished_writing = True
            self._progress_s = self._clock()
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
