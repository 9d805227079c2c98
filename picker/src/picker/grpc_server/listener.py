"""A listening socket and the connections that it has accepted."""

import asyncio
import ssl
from collections.abc import Mapping

import structlog

from picker.addresses import listening_socket
from picker.grpc_server.call import Call, Method
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.http2.headers import HeaderBlockCache
from picker.grpc_server.transport import HANDSHAKE_TIMEOUT_S, LINGER_S, GrpcProtocol

BACKLOG = 1024
"""Connections that wait to be accepted: all workers of all proxies, which reconnect at once after a restart."""

log = structlog.get_logger(__name__)


class Listener:
    """A listener of the server. It binds on construction, so that the port is known; it accepts from `start` on."""

    def __init__(
        self,
        address: str,
        methods: Mapping[str, Method],
        deadlines: Deadlines[Call],
        load: ConnectionLimits | None = None,
    ) -> None:
        """`address`: see `addresses.listening_socket`. Raises OSError if the address cannot be bound."""
        self.load = load if load is not None else ConnectionLimits()
        self._socket = listening_socket(address, BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._methods = methods
        self._deadlines = deadlines
        self._header_cache = HeaderBlockCache()
        self._server: asyncio.Server | None = None
        self._protocols: dict[GrpcProtocol, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self, tls: ssl.SSLContext | None) -> None:
        """Starts to accept. If called again, new connections use the new `tls`; open connections stay as they are.

        Needs uvloop then: asyncio's own loop discards a connection that it accepts while a server closes."""
        loop = asyncio.get_running_loop()
        previous = self._server

        def new_protocol() -> GrpcProtocol:
            return GrpcProtocol(self, self._header_cache, self._methods, self._deadlines, loop.time, self.load)

        # An asyncio server closes its socket with itself. On a duplicate, connections are accepted in between.
        self._server = await loop.create_server(
            new_protocol,
            sock=self._socket.dup(),
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
            ssl_shutdown_timeout=LINGER_S if tls is not None else None,
        )
        if previous is not None:
            previous.close()

    def check(self, now_s: float) -> None:
        """Closes connections that have stalled or are unused."""
        for protocol in list(self._protocols):
            protocol.check(now_s)
        load = self.load
        if load.refused:
            log.warning("grpc.too_many_connections", cut=load.refused, allowed=load.max_connections)
            load.refused = 0

    def end_silent(self, now_s: float, limit_s: float) -> None:
        """Calls `CallDispatcher.end_silent` of each connection."""
        for protocol in list(self._protocols):
            protocol.end_silent(now_s, limit_s)
        if self.load.silent:
            log.warning("grpc.silent_calls_ended", calls=self.load.silent)
            self.load.silent = 0

    async def drain(self, grace_s: float) -> None:
        """Accepts no new connections, and closes the open ones: gracefully within `grace_s`, then by force."""
        self._stop_listening()
        for protocol in list(self._protocols):
            protocol.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for protocol in list(self._protocols):
                protocol.abort()
            await self._empty.wait()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._socket.close()

    def opened(self, protocol: GrpcProtocol) -> None:
        self._protocols[protocol] = None
        self._empty.clear()
        if len(self._protocols) > self.load.max_connections:
            self.load.refused += 1
            unused = next((other for other in self._protocols if not other.open_calls), protocol)
            (next(iter(self._protocols)) if self.load.oldest_goes else unused).abort()

    def closed(self, protocol: GrpcProtocol) -> None:
        self._protocols.pop(protocol, None)
        if not self._protocols:
            self._empty.set()
