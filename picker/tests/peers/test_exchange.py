"""Replicas exchange over gRPC on localhost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from event_server import until
from picker.grpc_server.tls import TlsFiles
from picker.peers import client as peer_client
from picker.peers import server as peer_server
from picker.peers.client import PeerClients, server_name
from picker.peers.deltas import Batch, Hello, Names, Subscribe, encode
from picker.peers.peer_state import PeerState
from picker.peers.server import SUBSCRIBE, PeerServer
from replicas import ReplicaOfPicker

NAME = "picker.inference-gateway.svc"
LONG = "a long prompt " * 400


class Served(ReplicaOfPicker):
    """A replica with both sides of the exchange, which drops a peer after `silence_s`."""

    def __init__(self, name: str, tls: TlsFiles | None = None, silence_s: float = 3.0) -> None:
        super().__init__(name, asyncio.get_running_loop().time)
        self.publisher.active = False
        pools = [(self.served.key, self.served.prefixes, self.endpoints)]
        self.server = PeerServer(self.publisher, lambda: pools, "127.0.0.1:0", tls)
        self.clients = PeerClients(self.tracker, self, name, tls, silence_s)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@asynccontextmanager
async def running(*replicas: Served) -> AsyncIterator[None]:
    for replica in replicas:
        await replica.server.start()
    try:
        yield
    finally:
        for replica in replicas:
            await replica.clients.stop()
            await replica.server.stop()


def certificates(folder: Path, authority: trustme.CA, *names: str) -> TlsFiles:
    files = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    assert files.client_ca is not None
    leaf = authority.issue_cert(*names)
    leaf.cert_chain_pems[0].write_to_path(files.certificate)
    leaf.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.client_ca)
    return files


async def test_two_pickers_count_each_others_requests_over_mutual_tls(tmp_path: Path) -> None:
    files = certificates(tmp_path, trustme.CA(), NAME)
    first, second = Served("a", files), Served("b", files)
    async with running(first, second):
        early = first.pick(LONG)
        for replica in (first, second):
            # The own address is among those of the Service.
            replica.clients.follow([first.address, second.address])
        await until(lambda: first.clients.connected == second.clients.connected == 1)
        late = second.pick(LONG)
        await until(lambda: first.tracker.peers.requests == second.tracker.peers.requests == 1)
        assert first.counts() == second.counts()
        blocks = early.request.blocks
        await until(
            lambda: first.index.matches(blocks, first.endpoints) == second.index.matches(blocks, second.endpoints)
        )
        first.director.ended(early)
        second.director.ended(late)
        await until(lambda: first.counts() == second.counts() == [(0, 0, 0)] * 3)


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_of_another_authority_is_rejected(tmp_path: Path, trusted: bool) -> None:
    authority = trustme.CA()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first = Served("a", certificates(tmp_path / "a", authority, NAME))
    second = Served("b", certificates(tmp_path / "b", authority if trusted else trustme.CA(), NAME))
    async with running(first, second):
        second.clients.follow([first.address])
        if trusted:
            await until(lambda: second.clients.connected == 1)
        else:
            await asyncio.sleep(0.5)
            assert not second.clients.connected
            assert not len(first.server)


async def test_a_subscriber_without_a_certificate_is_rejected(tmp_path: Path) -> None:
    files = certificates(tmp_path, trustme.CA(), NAME)
    replica = Served("a", files)
    async with running(replica):
        assert files.client_ca is not None
        credentials = grpc.ssl_channel_credentials(files.client_ca.read_bytes())
        options = (("grpc.ssl_target_name_override", NAME),)
        async with grpc.aio.secure_channel(replica.address, credentials, options) as channel:
            call = channel.unary_stream(SUBSCRIBE)(encode(Subscribe(1, False)))
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
        assert not len(replica.server)


async def test_a_certificate_of_another_name_is_rejected(tmp_path: Path) -> None:
    authority = trustme.CA()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first = Served("a", certificates(tmp_path / "a", authority, "envoy.example"))
    second = Served("b", certificates(tmp_path / "b", authority, NAME))
    async with running(first, second):
        second.clients.follow([first.address])
        await asyncio.sleep(0.5)
        assert not second.clients.connected


def test_the_name_of_a_certificate_is_its_first_dns_name(tmp_path: Path) -> None:
    assert server_name(certificates(tmp_path, trustme.CA(), "10.0.0.1", NAME, "other.svc").certificate) == NAME
    assert server_name(certificates(tmp_path, trustme.CA(), "10.0.0.1").certificate) is None


async def test_a_peer_that_stops_is_dropped_after_silence() -> None:
    first, second = Served("a"), Served("b", silence_s=0.5)
    async with running(second):
        await first.server.start()
        first.pick()
        second.clients.follow([first.address])
        await until(lambda: second.tracker.peers.requests == 1)
        await first.server.stop()
        # A restart within the time of silence loses nothing.
        assert second.tracker.peers.requests == 1
        await until(lambda: second.tracker.peers.requests == 0)
        assert second.clients.dropped == 1
        await first.clients.stop()


async def test_a_silent_peer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Served("a"), Served("b", silence_s=0.5)
    async with running(first, second):
        first.pick()
        second.clients.follow([first.address])
        await until(lambda: second.tracker.peers.requests == 1)
        monkeypatch.setattr(peer_server, "HEARTBEAT_S", 1000.0)
        await until(lambda: second.tracker.peers.requests == 0)
        monkeypatch.undo()
        await until(lambda: second.tracker.peers.requests == 1)


async def test_heartbeats_keep_an_idle_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "HEARTBEAT_S", 0.1)
    first, second = Served("a"), Served("b", silence_s=0.6)
    async with running(first, second):
        first.pick()
        second.clients.follow([first.address])
        await until(lambda: second.tracker.peers.requests == 1)
        await asyncio.sleep(1.5)
        assert second.clients.dropped == 0
        assert second.tracker.peers.requests == 1


async def test_a_peer_that_is_no_longer_followed_is_dropped_at_once() -> None:
    first, second = Served("a"), Served("b")
    async with running(first, second):
        first.pick()
        second.clients.follow([first.address])
        await until(lambda: second.tracker.peers.requests == 1)
        second.clients.follow([])
        assert second.tracker.peers.requests == 0
        await until(lambda: not len(first.server))
        assert not first.publisher.active


async def test_a_peer_at_two_addresses_counts_once() -> None:
    first, second = Served("a"), Served("b")
    async with running(first, second):
        first.pick()
        second.clients.follow([first.address, first.address.replace("127.0.0.1", "localhost")])
        await until(lambda: second.tracker.peers.requests == 1)
        await asyncio.sleep(0.3)
        assert second.clients.connected == second.tracker.peers.requests == 1


async def test_addresses_beyond_the_limit_are_not_subscribed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "MAX_PEERS", 2)
    replica = Served("a")
    async with running(replica):
        replica.clients.follow([f"127.0.0.1:{port}" for port in range(1, 9)])
        assert len(list(replica.clients.states())) == 3


async def test_subscribers_beyond_the_limit_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "MAX_PEERS", 1)
    first, second, third = Served("a"), Served("b"), Served("c")
    async with running(first, second, third):
        second.clients.follow([first.address])
        await until(lambda: second.clients.connected == 1)
        third.clients.follow([first.address])
        await asyncio.sleep(0.3)
        assert third.clients.connected == 0
        assert len(first.server) == 1


@pytest.mark.parametrize(
    "message", [b"", b"rubbish", b"\xc1" * 1000, encode(Hello(1, "", 0)), b"x" * 100_000], ids=range(5)
)
async def test_rubbish_in_place_of_a_subscription_is_rejected(message: bytes) -> None:
    replica = Served("a")
    async with running(replica), grpc.aio.insecure_channel(replica.address) as channel:
        call = channel.unary_stream(SUBSCRIBE)(message)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert raised.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert not len(replica.server)


async def test_a_subscriber_that_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "MAX_UNSENT_BYTES", 1 << 18)
    replica = Served("a")
    async with running(replica), grpc.aio.insecure_channel(replica.address) as channel:
        call = channel.unary_stream(SUBSCRIBE)(encode(Subscribe(1, False)))
        await call.read()
        monkeypatch.setattr(replica.publisher, "flush", lambda: bytes(1 << 18))
        assert replica.publisher.on_changed is not None
        for _ in range(200):
            replica.publisher.on_changed(True)
            await asyncio.sleep(0.001)
        assert not len(replica.server)
        assert not replica.publisher.active
        call.cancel()


class HostileServer:
    """Answers subscriptions with `messages`, then with nothing."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = messages
        self.subscriptions = 0
        self._server = grpc.aio.server()
        service, method = SUBSCRIBE.strip("/").split("/")
        handler = grpc.unary_stream_rpc_method_handler(self._answer)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def _answer(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:
        self.subscriptions += 1
        for message in self._messages:
            yield message
        await asyncio.sleep(60)

    async def __aenter__(self) -> "HostileServer":
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)


@pytest.mark.parametrize(
    "messages", [(b"rubbish",), (b"x" * (1 << 20),), (encode(Hello(7, "hostile", 0)),), (encode(Hello(1, "h", 0)), b"")]
)
async def test_a_hostile_peer_is_left_and_tried_again_later(messages: tuple[bytes, ...]) -> None:
    replica = Served("a", silence_s=0.5)
    async with HostileServer(*messages) as hostile, running(replica):
        replica.clients.follow([hostile.address])
        await until(lambda: hostile.subscriptions >= 3)
        await asyncio.sleep(0.5)
        # Pauses double: 0.1, 0.2, 0.4 ... seconds.
        assert hostile.subscriptions <= 10
        assert replica.counts() == [(0, 0, 0)] * 3


async def test_a_peer_that_floods_is_read_at_a_limited_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "MESSAGE_BURST", 20)
    replica = Served("a")
    flood = (encode(Hello(1, "hostile", 0)), *(bytes(_empty_batch(number)) for number in range(1, 3000)))
    async with HostileServer(*flood) as hostile, running(replica):
        replica.clients.follow([hostile.address])
        await until(lambda: replica.clients.connected == 1)
        read = []
        apply = PeerState.apply
        monkeypatch.setattr(
            PeerState, "apply", lambda state, data, now_s: (read.append(data), apply(state, data, now_s))
        )
        await asyncio.sleep(1.0)
        assert 20 < len(read) <= 20 + 1.5 * peer_client.MAX_MESSAGES_PER_S


def _empty_batch(sequence: int) -> bytes:
    return encode(Batch(sequence, 0, Names(), (), (), ()))
