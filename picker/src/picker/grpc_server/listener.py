"""A listening socket and the connections that came by it."""

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
"""Connections that wait to be accepted: all workers of all proxies, reconnecting at once after a restart."""

log = structlog.get_logger(__name__)


class Listener:
    """Bound at once, so that the port is known; listens from `start` on."""

    def __init__(
        self,
        address: str,
        methods: Mapping[str, Method],
        deadlines: Deadlines[Call],
        load: ConnectionLimits | None = None,
    ) -> None:
        """`address`: see `addresses.listening_socket`. Raises OSError when it cannot be listened on."""
        self.load = load if load is not None else ConnectionLimits()
        self._socket = listening_socket(address, BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._methods = methods
        self._deadlines = deadlines
        self._kept = HeaderBlockCache()
        self._server: asyncio.Server | None = None
        self._peers: dict[GrpcProtocol, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self, tls: ssl.SSLContext | None) -> None:
        """Listen. Called again, new connections get the new `tls`, and those that there are stay as they are."""
        loop = asyncio.get_running_loop()
        before = self._server

        def new_peer() -> GrpcProtocol:
            return GrpcProtocol(self, self._kept, self._methods, self._deadlines, loop.time, self.load)

        # A server closes its socket with itself; on a duplicate, connections are accepted in between.
        self._server = await loop.create_server(
            new_peer,
            sock=self._socket.dup(),
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
            ssl_shutdown_timeout=LINGER_S if tls is not None else None,
        )
        if before is not None:
            before.close()

    def check(self, now_s: float) -> None:
        """Cut connections that have stalled, and close those that are not used."""
        for peer in list(self._peers):
            peer.check(now_s)
        load = self.load
        if load.refused:
            log.warning("edge.too_many_connections", cut=load.refused, allowed=load.max_connections)
            load.refused = 0

    def end_silent(self, now_s: float, limit_s: float) -> None:
        """See `CallDispatcher.end_silent`."""
        for peer in list(self._peers):
            peer.end_silent(now_s, limit_s)
        if self.load.silent:
            log.warning("edge.silent_calls_ended", calls=self.load.silent)
            self.load.silent = 0

    async def drain(self, grace_s: float) -> None:
        """Take no more connections, and end those that there are: in good order within `grace_s`, then by force."""
        self._stop_listening()
        for peer in list(self._peers):
            peer.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for peer in list(self._peers):
                peer.abort()
            await self._empty.wait()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._socket.close()

    # What the peers call.

    def opened(self, peer: GrpcProtocol) -> None:
        self._peers[peer] = None
        self._empty.clear()
        if len(self._peers) > self.load.max_connections:
            self.load.refused += 1
            unused = next((each for each in self._peers if not each.open_calls), peer)
            (next(iter(self._peers)) if self.load.oldest_goes else unused).abort()

    def closed(self, peer: GrpcProtocol) -> None:
        self._peers.pop(peer, None)
        if not self._peers:
            self._empty.set()
