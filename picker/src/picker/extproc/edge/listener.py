"""A listening socket and the connections that came by it."""

import asyncio
import socket
import ssl
from collections.abc import Mapping

from picker.extproc.edge.call import Call, Method
from picker.extproc.edge.deadlines import Deadlines
from picker.extproc.edge.transport import Peer
from picker.extproc.http2.heads import KeptHeads

BACKLOG = 1024
"""Connections that wait to be accepted: all workers of all proxies, reconnecting at once after a restart."""


class Listener:
    """Bound at once, so that the port is known; listens from `start` on."""

    def __init__(self, address: str, methods: Mapping[str, Method], deadlines: Deadlines[Call]) -> None:
        """`address`: `host:port`; port 0 takes any free one. Raises OSError when it cannot be listened on."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # No SO_REUSEPORT: two pickers on one port would each get half the calls and know half the load.
        self._socket = socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._methods = methods
        self._deadlines = deadlines
        self._kept = KeptHeads()
        self._server: asyncio.Server | None = None
        self._peers: dict[Peer, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self, tls: ssl.SSLContext | None) -> None:
        """Listen. Called again, new connections get the new `tls`, and those that there are stay as they are."""
        loop = asyncio.get_running_loop()
        before = self._server

        def new_peer() -> Peer:
            return Peer(self, self._kept, self._methods, self._deadlines, loop.time)

        # A server closes its socket with itself; on a duplicate, nobody is turned away in between.
        self._server = await loop.create_server(new_peer, sock=self._socket.dup(), ssl=tls, backlog=BACKLOG)
        if before is not None:
            before.close()

    def check(self, now_s: float) -> None:
        """Cut connections that have stalled."""
        for peer in list(self._peers):
            peer.check(now_s)

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

    def opened(self, peer: Peer) -> None:
        self._peers[peer] = None
        self._empty.clear()

    def closed(self, peer: Peer) -> None:
        self._peers.pop(peer, None)
        if not self._peers:
            self._empty.set()
