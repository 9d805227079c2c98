"""The gRPC service from which peers read what this picker assigns and what ends."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import structlog

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.grpc_server.call import Call, CallContext
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import TICK_S, Deadlines
from picker.grpc_server.http2.headers import CallHeaders
from picker.grpc_server.listener import Listener
from picker.grpc_server.status import RpcError, Status
from picker.grpc_server.tls import TlsFiles, WatchedTls
from picker.peers.deltas import InvalidMessage, decode_subscription
from picker.peers.publisher import Publisher, prefix_snapshot

SUBSCRIBE = "/inference_gateway.picker.v1.Peers/Subscribe"

BATCH_S = 0.1
"""Least time between two batches. The first change after it is reported at once. Measured in the simulator: TTFT p90 of
two pickers is 1.00, 1.01, 1.05 and 1.13 of one picker's at 0.05, 0.1, 0.25 and 1 s."""

HEARTBEAT_S = 1.0
"""Most time between two batches: an empty one shows that this picker is alive."""

SNAPSHOT_S = 0.02
"""Between two parts of a snapshot, each of which takes some milliseconds to make."""

MAX_PEERS = 16
"""Judgement: a picker decides on thousands of requests a second, and each of its peers counts them, too."""

MAX_UNSENT_BYTES = 8 << 20
"""Waiting for one peer. At the rate of 5,000 requests a second these are four seconds of batches, and a peer is silent
for three at most."""

SNAPSHOT_UNSENT_BYTES = 1 << 20
"""Waiting for one peer, above which its snapshot pauses."""

CHECK_S = 1.0
"""Between two checks of certificate files and of connections."""

Pools = Callable[[], Iterable[tuple[str, PrefixIndex, Iterable[Endpoint]]]]
"""Key, prefix index and endpoints of each pool."""

log = structlog.get_logger(__name__)


class PeerServer:
    """Sends the publisher's batches to all subscribers."""

    def __init__(self, publisher: Publisher, pools: Pools, address: str, tls: TlsFiles | None) -> None:
        """In the event loop that will run it. `address`: `host:port`; port 0 takes any free one (see `port`). Raises
        OSError if the address cannot be bound, and CertificatesUnusable."""
        self._publisher = publisher
        self._pools = pools
        self._tls = WatchedTls(tls)
        self._loop = asyncio.get_running_loop()
        self._deadlines: Deadlines[Call] = Deadlines()
        limits = ConnectionLimits(
            max_calls=2 * MAX_PEERS,
            max_held_bytes=1 << 16,
            max_connections=4 * MAX_PEERS,
            max_calls_per_connection=2,
        )
        self._listener = Listener(address, {SUBSCRIBE: self._call}, self._deadlines, limits)
        self._subscriptions: dict[_Subscription, Iterator[bytes]] = {}
        """With what is left of the snapshot of each."""
        self._flushed_s = self._loop.time()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._snapshot_timer: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None
        publisher.on_changed = self._changed

    @property
    def port(self) -> int:
        return self._listener.port

    def __len__(self) -> int:
        """Number of subscribers."""
        return len(self._subscriptions)

    async def start(self) -> None:
        await self._listener.start(self._tls.context)
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Send what is left to be reported, and end all subscriptions."""
        self._flush()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._listener.drain(1.0)
        for timer in (self._flush_timer, self._snapshot_timer):
            if timer is not None:
                timer.cancel()

    def begin(self, subscription: "_Subscription", *, prefixes: bool) -> None:
        """Send the state to a new subscriber, and all changes from now on."""
        # The snapshot has what the batch in progress says.
        self._flush()
        self._publisher.active = True
        snapshot = self._publisher.snapshot()
        self._subscriptions[subscription] = chain(snapshot, prefix_snapshot(self._pools())) if prefixes else snapshot
        subscription.send(self._publisher.hello())
        self._send_snapshots()

    def end(self, subscription: "_Subscription") -> None:
        self._subscriptions.pop(subscription, None)
        if not self._subscriptions:
            self._publisher.active = False

    def _call(self, context: CallContext, stream_id: int, _headers: CallHeaders) -> Call:
        return _Subscription(context, stream_id, self)

    def _changed(self, is_full: bool) -> None:
        if is_full:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_at(self._flushed_s + BATCH_S, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._flushed_s = self._loop.time()
        batch = self._publisher.flush()
        for subscription in list(self._subscriptions):
            if subscription.unsent_bytes > MAX_UNSENT_BYTES:
                log.warning("peers.slow", unsent_bytes=subscription.unsent_bytes)
                subscription.end(Status.RESOURCE_EXHAUSTED, "the peer does not read")
            else:
                subscription.send(batch)
            subscription.context.flush()

    def _send_snapshots(self) -> None:
        """Send a part of each snapshot that is not complete."""
        if self._snapshot_timer is not None:
            # Set by another subscription, whose snapshot is sent here, too.
            self._snapshot_timer.cancel()
            self._snapshot_timer = None
        is_left = False
        for subscription, parts in list(self._subscriptions.items()):
            if subscription.unsent_bytes > SNAPSHOT_UNSENT_BYTES:
                is_left = True
                continue
            part = next(parts, None)
            if part is not None:
                is_left = True
                subscription.send(part)
                subscription.context.flush()
        if is_left:
            self._snapshot_timer = self._loop.call_later(SNAPSHOT_S, self._send_snapshots)

    async def _keep(self) -> None:
        """Heartbeats, deadlines, stalled connections, certificates."""
        check_at_s = self._loop.time() + CHECK_S
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._loop.time()
            if now_s - self._flushed_s >= HEARTBEAT_S and self._subscriptions:
                self._flush()
            for call in self._deadlines.pop_due(now_s):
                call.context.expire(call, now_s)
            if now_s >= check_at_s:
                check_at_s = now_s + CHECK_S
                self._listener.check(now_s)
                self._listener.end_silent(now_s, float("inf"))
                if self._tls.has_changed():
                    await self._listener.start(self._tls.context)


class _Subscription(Call):
    """A Subscribe call: one message, and a stream of responses."""

    __slots__ = ("_has_begun", "_server")

    ends_when_silent = False

    def __init__(self, context: CallContext, stream_id: int, server: PeerServer) -> None:
        super().__init__(context, stream_id)
        self._server = server
        self._has_begun = False

    @property
    def unsent_bytes(self) -> int:
        """Waiting for the peer. It has a connection for this call alone."""
        return self.context.connection.unsent_bytes

    def received(self, message: bytes) -> None:
        if self._has_begun:
            raise RpcError(Status.INVALID_ARGUMENT, "more than one Subscribe")
        try:
            subscribe = decode_subscription(message)
        except InvalidMessage as error:
            raise RpcError(Status.INVALID_ARGUMENT, str(error)) from None
        if len(self._server) >= MAX_PEERS:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"more than {MAX_PEERS} peers")
        self._has_begun = True
        self._server.begin(self, prefixes=subscribe.prefixes)

    def half_closed(self) -> None:
        if not self._has_begun:
            raise RpcError(Status.INVALID_ARGUMENT, "client half-closed without a Subscribe")

    def drain(self) -> None:
        self.end(Status.UNAVAILABLE, "server is shutting down")

    def closed(self) -> None:
        self._server.end(self)
