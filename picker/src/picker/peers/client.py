"""Subscriptions to the peers. Imported only where there are peers."""

import asyncio
import random
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import structlog
from cryptography import x509

from picker.bounded_text import shorten
from picker.endpoints.in_flight import InFlightTracker
from picker.grpc_server.tls import TlsFiles
from picker.grpc_server.token_bucket import TokenBucket
from picker.peers.deltas import MAX_MESSAGE_BYTES, VERSION, InvalidMessage, Subscribe, encode
from picker.peers.peer_state import Directory, PeerState
from picker.peers.server import MAX_PEERS, SUBSCRIBE

SILENCE_S = 3.0
"""After which a peer is dropped: three missed heartbeats."""

RETRY_BASE_S, RETRY_MAX_S = 0.1, 5.0
"""Between two subscriptions. A restarted picker is back within a second; an address that is gone is removed by its
EndpointSlice."""

MAX_MESSAGES_PER_S = 200.0
MESSAGE_BURST = 400
"""Messages that are read of a peer. A peer sends ten a second, and fifty while it sends a snapshot. What comes faster
waits in the peer, which ends the subscription at its own limit."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # Each subscription has a connection of its own, and this module its own pauses between them.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)

log = structlog.get_logger(__name__)


class _OwnAddress(InvalidMessage):
    """The address is this process's own."""


class _KnownPeer(InvalidMessage):
    """The peer is subscribed to at another address."""


class PeerClients:
    """Subscribes to all peers, and drops those that are silent."""

    def __init__(
        self,
        tracker: InFlightTracker,
        directory: Directory,
        instance: str,
        tls: TlsFiles | None,
        silence_s: float = SILENCE_S,
    ) -> None:
        """In the event loop that will run it. `instance`: of this process. `tls` must have a client CA: it verifies the
        peers' certificates."""
        self.tracker = tracker
        self.directory = directory
        self.tls = tls
        self.silence_s = silence_s
        self.received_bytes = 0
        self.dropped = 0
        """Times that a peer with requests in flight was dropped."""
        self._instance = instance
        self._clients: dict[str, tuple[_PeerClient, asyncio.Task[None]]] = {}

    def follow(self, addresses: Collection[str]) -> None:
        """Subscribe to the peers at these addresses (`host:port`), and to no others. This picker's own may be among
        them. Beyond the limit, the first in order are taken."""
        wanted = sorted(addresses)[: MAX_PEERS + 1]
        if len(wanted) < len(addresses):
            log.warning("peers.too_many", addresses=len(addresses), allowed=len(wanted))
        for address in self._clients.keys() - set(wanted):
            client, task = self._clients.pop(address)
            task.cancel()
            client.close()
        for address in wanted:
            if address not in self._clients:
                client = _PeerClient(address, self)
                self._clients[address] = client, asyncio.create_task(client.run())

    def states(self) -> Iterable[PeerState]:
        return [client.state for client, _ in self._clients.values()]

    @property
    def connected(self) -> int:
        """Number of peers whose requests are counted."""
        return sum(state.instance is not None for state in self.states())

    def admit(self, instance: str) -> None:
        """Raises _OwnAddress and _KnownPeer."""
        if instance == self._instance:
            raise _OwnAddress
        if any(state.instance == instance for state in self.states()):
            raise _KnownPeer("subscribed to at another address")

    async def stop(self) -> None:
        """End all subscriptions."""
        tasks = [task for _, task in self._clients.values()]
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)


class _PeerClient:
    """The subscription to the peer at one address."""

    def __init__(self, address: str, clients: PeerClients) -> None:
        self.state = PeerState(clients.tracker, clients.directory, clients.admit)
        self._address = address
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._silence_timer: asyncio.TimerHandle | None = None
        self._has_prefixes = False
        """Whether the peer's prefix index was sent. After a drop it is read again, for changes were missed."""
        self._reported: str | None = None

    async def run(self) -> None:
        """Subscribe again whenever the subscription ends, until cancelled. Returns if the address is this process's."""
        longest_s = RETRY_BASE_S
        while True:
            began_s = self._loop.time()
            try:
                await self._subscribe()
                reason = "the peer ended the subscription"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except _OwnAddress:
                return
            except TimeoutError:
                reason = f"silent for {self._clients.silence_s:g} s"
            except (InvalidMessage, OSError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
                if isinstance(error, _KnownPeer):
                    longest_s = RETRY_MAX_S
            except Exception as error:
                # The subscription is all that keeps the peer's requests counted, so it is tried again.
                log.exception("peers.failed", peer=self._address)
                reason = type(error).__name__
            if reason != self._reported:
                self._reported = reason
                log.info("peers.disconnected", peer=self._address, reason=shorten(reason))
            if self._loop.time() - began_s > RETRY_MAX_S:
                longest_s = RETRY_BASE_S
            await asyncio.sleep(longest_s * random.uniform(0.5, 1.0))
            longest_s = min(RETRY_MAX_S, 2 * longest_s)

    def close(self) -> None:
        """Count none of the peer's requests from now on."""
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        self.state.drop()

    async def _subscribe(self) -> None:
        self.state.subscribed()
        async with self._channel() as channel:
            subscribe = cast("grpc.aio.UnaryStreamMultiCallable[bytes, bytes]", channel.unary_stream(SUBSCRIBE))
            call = subscribe(encode(Subscribe(VERSION, prefixes=not self._has_prefixes)))
            budget = TokenBucket(MESSAGE_BURST, MAX_MESSAGES_PER_S)
            while True:
                async with asyncio.timeout(self._clients.silence_s):
                    message = await call.read()
                if not isinstance(message, bytes):
                    await _raise_status(call)
                    return
                self._received(message)
                if not budget.take(self._loop.time()):
                    await asyncio.sleep(budget.debt_s())

    def _received(self, message: bytes) -> None:
        self._heard_s = now_s = self._loop.time()
        self._clients.received_bytes += len(message)
        known = self.state.instance
        self.state.apply(message, now_s)
        self._has_prefixes = True
        if known is None:
            self._watch()
        if known is None or self._reported is not None:
            self._reported = None
            log.info("peers.connected", peer=self._address)

    def _watch(self) -> None:
        """Drop the peer once it has been silent for too long."""
        left_s = self._heard_s + self._clients.silence_s - self._loop.time()
        if left_s > 0:
            self._silence_timer = self._loop.call_later(left_s, self._watch)
            return
        requests = len(self.state)
        self._clients.dropped += bool(requests)
        log.warning("peers.dropped", peer=self._address, in_flight=requests)
        self._has_prefixes = False
        self.state.drop()

    def _channel(self) -> grpc.aio.Channel:
        tls = self._clients.tls
        if tls is None:
            return grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        assert tls.client_ca is not None
        credentials = grpc.ssl_channel_credentials(
            tls.client_ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
        )
        name = server_name(tls.certificate)
        options = _OPTIONS if name is None else (*_OPTIONS, ("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(self._address, credentials, options=options)


def server_name(certificate: Path) -> str | None:
    """Returns the first DNS name of this picker's certificate, which peers have, too: all replicas share it. None for a
    certificate of addresses. Raises OSError, ValueError."""
    parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return next(iter(names.get_values_for_type(x509.DNSName)), None)


async def _raise_status(call: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> None:
    """Raises AioRpcError unless the call ended with OK."""
    if (code := await call.code()) is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
