"""The picker's endpoint discovery service, against a gRPC client that asks as Envoy does."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import pytest_asyncio
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2
from gateway_objects import pool, resources, service
from picker.endpoints.datastore import Datastore, MembershipChange
from picker.resources.names import ObjectName
from picker.sources.inventory import Inventory, ModelServer
from picker.xds import eds_server
from picker.xds.eds_server import EdsServer
from picker.xds.picker_ref import PickerName, PickerPlaces

POOL_A = "inference.networking.x-k8s.io/default/a"
POOL_B = "inference.networking.x-k8s.io/default/b"


def inventory(*servers: str, of: str = "a", pools: str = "ab") -> Inventory:
    """Servers at the addresses `servers`, on port 8000."""
    texts = [*(pool(name) for name in pools), service("a")]
    return Inventory(
        resources(*texts),
        tuple(ModelServer(f"s-{address}", "default", address, None, {"app": of}) for address in servers),
    )


@pytest.fixture
def endpoints() -> Datastore:
    made = Datastore()
    made.update(inventory("10.0.0.1", "fd00::1"))
    return made


class Pickers:
    """One that a test writes down."""

    def __init__(self) -> None:
        self.known: dict[PickerName, PickerPlaces] = {}
        self.tell: Callable[[MembershipChange], None] = lambda _: None

    def places(self, picker: PickerName) -> PickerPlaces | None:
        return self.known.get(picker)

    async def is_own_picker(self, service: ObjectName) -> bool:
        raise NotImplementedError

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        self.tell = listener


@pytest.fixture
def pickers() -> Pickers:
    return Pickers()


@pytest_asyncio.fixture
async def stream(endpoints: Datastore, pickers: Pickers) -> AsyncIterator["Stream"]:
    discovery = EdsServer(endpoints, "127.0.0.1:0", pickers)
    await discovery.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{discovery.port}") as channel:
        yield Stream(channel)
    await discovery.stop()


class Stream:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.stream_stream(
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )()

    async def ask(self, *names: str, nonce: str = "", refusing: bool = False) -> None:
        request = discovery_pb2.DiscoveryRequest(resource_names=names, response_nonce=nonce)
        if refusing:
            request.error_detail.message = "no"
        await self._call.write(request)

    async def ended(self) -> grpc.StatusCode:
        """How the server ended the stream."""
        async with asyncio.timeout(5):
            return await self._call.code()

    async def told(self) -> dict[str, list[str]]:
        """The addresses by name in the next answer, which is acknowledged; those to be asked by TLS say so, and those
        that stand by."""
        async with asyncio.timeout(5):
            response = await self._call.read()
        assert isinstance(response, discovery_pb2.DiscoveryResponse)
        found = [endpoint_pb2.ClusterLoadAssignment.FromString(each.value) for each in response.resources]
        await self.ask(*(each.cluster_name for each in found), nonce=response.nonce)
        return {
            each.cluster_name: [
                f"{where.address} {where.port_value}"
                + (" by TLS" if "tls" in marks else "")
                + (f" after {locality.priority}" if locality.priority else "")
                for locality in each.endpoints
                for one in locality.lb_endpoints
                for where in [one.endpoint.address.socket_address]
                for marks in [one.metadata.filter_metadata["envoy.transport_socket_match"]]
            ]
            for each in found
        }


async def test_a_stream_is_told_what_it_asks_for(stream: Stream) -> None:
    await stream.ask(POOL_A)
    assert await stream.told() == {POOL_A: ["10.0.0.1 8000", "fd00::1 8000"]}


async def test_a_service_is_told_by_its_port(stream: Stream) -> None:
    await stream.ask("service/default/a/80")
    assert await stream.told() == {"service/default/a/80": ["10.0.0.1 80", "fd00::1 80"]}


async def test_a_pool_without_servers_is_told_to_have_none(stream: Stream) -> None:
    await stream.ask(POOL_B)
    assert await stream.told() == {POOL_B: []}


async def test_a_change_is_told_to_who_asked_for_it_and_to_nobody_else(stream: Stream, endpoints: Datastore) -> None:
    await stream.ask(POOL_A)
    await stream.told()
    endpoints.update(inventory("10.0.0.1", "fd00::1", pools="a"))
    endpoints.update(inventory("10.0.0.2"))
    assert await stream.told() == {POOL_A: ["10.0.0.2 8000"]}


async def test_of_a_pool_that_is_not_known_nothing_is_said_until_it_is(stream: Stream, endpoints: Datastore) -> None:
    endpoints.update(inventory("10.0.0.1", pools="a"))
    await stream.ask(POOL_B)
    endpoints.update(inventory("10.0.0.3", of="b"))
    assert await stream.told() == {POOL_B: ["10.0.0.3 8000"]}


async def test_a_pool_that_is_gone_keeps_its_endpoints_until_its_cluster_goes(
    stream: Stream, endpoints: Datastore
) -> None:
    await stream.ask(POOL_A)
    await stream.told()
    endpoints.update(inventory(pools="b"))
    endpoints.update(inventory("10.0.0.4"))
    assert await stream.told() == {POOL_A: ["10.0.0.4 8000"]}


async def test_an_answer_that_envoy_refuses_is_not_sent_again(stream: Stream, endpoints: Datastore) -> None:
    await stream.ask(POOL_A)
    await stream.told()
    await stream.ask(POOL_A, refusing=True)
    endpoints.update(inventory("10.0.0.5"))
    assert await stream.told() == {POOL_A: ["10.0.0.5 8000"]}


async def test_a_picker_is_told_where_it_is_and_how_to_ask_it(stream: Stream, pickers: Pickers) -> None:
    """Nothing until that is known; then each change."""
    name = PickerName(ObjectName("default", "theirs"), 9002)
    await stream.ask(str(name))
    for places, wanted in (
        (PickerPlaces(("10.0.0.9:9000",), by_tls=True), ["10.0.0.9 9000 by TLS"]),
        (PickerPlaces((), by_tls=True), []),
        (
            PickerPlaces(("10.0.0.1:9", "10.0.0.2:9"), by_tls=True, tls_addresses=frozenset({"10.0.0.2:9"})),
            ["10.0.0.1 9", "10.0.0.2 9 by TLS"],
        ),
        (PickerPlaces(("10.0.0.8:9000",), by_tls=False), ["10.0.0.8 9000"]),
        (PickerPlaces(("10.0.0.1:9", "10.0.0.2:9"), by_tls=False), ["10.0.0.1 9", "10.0.0.2 9"]),
        (PickerPlaces(("10.0.0.1:9", "10.0.0.2:9"), by_tls=False, in_turn=True), ["10.0.0.1 9", "10.0.0.2 9 after 1"]),
    ):
        pickers.known[name] = places
        pickers.tell(MembershipChange((), (), frozenset({str(name)})))
        assert await stream.told() == {str(name): wanted}


async def test_a_request_that_is_too_large_ends_its_stream_alone(endpoints: Datastore, pickers: Pickers) -> None:
    discovery = EdsServer(endpoints, "127.0.0.1:0", pickers)
    await discovery.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{discovery.port}") as channel:
        large, usual = Stream(channel), Stream(channel)
        await large.ask("x" * (2 << 20))
        await usual.ask(POOL_A)
        assert await usual.told() == {POOL_A: ["10.0.0.1 8000", "fd00::1 8000"]}
        assert await large.ended() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await discovery.stop()


async def test_streams_beyond_the_bound_are_refused(
    endpoints: Datastore, pickers: Pickers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eds_server, "MAX_STREAMS", 1)
    discovery = EdsServer(endpoints, "127.0.0.1:0", pickers)
    await discovery.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{discovery.port}") as channel:
        first = Stream(channel)
        await first.ask(POOL_A)
        await first.told()
        assert await Stream(channel).ended() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await discovery.stop()
