"""The EDS server with a gRPC client that behaves like Envoy."""

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
from picker.xds.picker_ref import PickerName, PickerReplicas

POOL_A = "inference.networking.x-k8s.io/default/a"
POOL_B = "inference.networking.x-k8s.io/default/b"


def inventory(*servers: str, of: str = "a", pools: str = "ab") -> Inventory:
    """Returns an inventory with servers at the addresses `servers`, on port 8000."""
    texts = [*(pool(name) for name in pools), service("a")]
    return Inventory(
        resources(*texts),
        tuple(ModelServer(f"s-{address}", "default", address, None, {"app": of}) for address in servers),
    )


@pytest.fixture
def endpoints() -> Datastore:
    datastore = Datastore()
    datastore.update(inventory("10.0.0.1", "fd00::1"))
    return datastore


class Pickers:
    """Pickers whose replicas the test sets."""

    def __init__(self) -> None:
        self.known: dict[PickerName, PickerReplicas] = {}
        self.notify: Callable[[MembershipChange], None] = lambda _: None

    def replicas(self, picker: PickerName) -> PickerReplicas | None:
        return self.known.get(picker)

    async def is_own_picker(self, service: ObjectName) -> bool:
        raise NotImplementedError

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        self.notify = listener


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

    async def subscribe(self, *names: str, nonce: str = "", rejecting: bool = False) -> None:
        request = discovery_pb2.DiscoveryRequest(resource_names=names, response_nonce=nonce)
        if rejecting:
            request.error_detail.message = "no"
        await self._call.write(request)

    async def status_code(self) -> grpc.StatusCode:
        """Returns the status with which the server ended the stream."""
        async with asyncio.timeout(5):
            return await self._call.code()

    async def next_addresses(self) -> dict[str, list[str]]:
        """Reads and acknowledges the next response. Returns the addresses by EDS name, with a note on TLS and on
        priority."""
        async with asyncio.timeout(5):
            response = await self._call.read()
        assert isinstance(response, discovery_pb2.DiscoveryResponse)
        assignments = [
            endpoint_pb2.ClusterLoadAssignment.FromString(assignment.value) for assignment in response.resources
        ]
        await self.subscribe(*(assignment.cluster_name for assignment in assignments), nonce=response.nonce)
        return {
            assignment.cluster_name: [
                f"{socket_address.address} {socket_address.port_value}"
                + (" by TLS" if "tls" in match else "")
                + (f" after {locality.priority}" if locality.priority else "")
                for locality in assignment.endpoints
                for endpoint in locality.lb_endpoints
                for socket_address in [endpoint.endpoint.address.socket_address]
                for match in [endpoint.metadata.filter_metadata["envoy.transport_socket_match"]]
            ]
            for assignment in assignments
        }


async def test_stream_gets_the_endpoints_of_a_pool(stream: Stream) -> None:
    await stream.subscribe(POOL_A)
    assert await stream.next_addresses() == {POOL_A: ["10.0.0.1 8000", "fd00::1 8000"]}


async def test_stream_gets_the_endpoints_of_a_service_port(stream: Stream) -> None:
    await stream.subscribe("service/default/a/80")
    assert await stream.next_addresses() == {"service/default/a/80": ["10.0.0.1 80", "fd00::1 80"]}


async def test_pool_without_servers_has_no_endpoints(stream: Stream) -> None:
    await stream.subscribe(POOL_B)
    assert await stream.next_addresses() == {POOL_B: []}


async def test_change_is_sent_only_to_subscribed_streams(stream: Stream, endpoints: Datastore) -> None:
    await stream.subscribe(POOL_A)
    await stream.next_addresses()
    endpoints.update(inventory("10.0.0.1", "fd00::1", pools="a"))
    endpoints.update(inventory("10.0.0.2"))
    assert await stream.next_addresses() == {POOL_A: ["10.0.0.2 8000"]}


async def test_unknown_pool_gets_no_response_until_it_exists(stream: Stream, endpoints: Datastore) -> None:
    endpoints.update(inventory("10.0.0.1", pools="a"))
    await stream.subscribe(POOL_B)
    endpoints.update(inventory("10.0.0.3", of="b"))
    assert await stream.next_addresses() == {POOL_B: ["10.0.0.3 8000"]}


async def test_deleted_pool_keeps_its_endpoints(stream: Stream, endpoints: Datastore) -> None:
    await stream.subscribe(POOL_A)
    await stream.next_addresses()
    endpoints.update(inventory(pools="b"))
    endpoints.update(inventory("10.0.0.4"))
    assert await stream.next_addresses() == {POOL_A: ["10.0.0.4 8000"]}


async def test_rejected_response_is_not_sent_again(stream: Stream, endpoints: Datastore) -> None:
    await stream.subscribe(POOL_A)
    await stream.next_addresses()
    await stream.subscribe(POOL_A, rejecting=True)
    endpoints.update(inventory("10.0.0.5"))
    assert await stream.next_addresses() == {POOL_A: ["10.0.0.5 8000"]}


async def test_picker_replicas_are_sent_with_tls_and_priority(stream: Stream, pickers: Pickers) -> None:
    """Nothing is sent until the replicas are known; then each change is sent."""
    name = PickerName(ObjectName("default", "theirs"), 9002)
    await stream.subscribe(str(name))
    for replicas, expected in (
        (PickerReplicas(("10.0.0.9:9000",), uses_tls=True), ["10.0.0.9 9000 by TLS"]),
        (PickerReplicas((), uses_tls=True), []),
        (
            PickerReplicas(("10.0.0.1:9", "10.0.0.2:9"), uses_tls=True, tls_addresses=frozenset({"10.0.0.2:9"})),
            ["10.0.0.1 9", "10.0.0.2 9 by TLS"],
        ),
        (PickerReplicas(("10.0.0.8:9000",), uses_tls=False), ["10.0.0.8 9000"]),
        (PickerReplicas(("10.0.0.1:9", "10.0.0.2:9"), uses_tls=False), ["10.0.0.1 9", "10.0.0.2 9"]),
        (
            PickerReplicas(("10.0.0.1:9", "10.0.0.2:9"), uses_tls=False, failover=True),
            ["10.0.0.1 9", "10.0.0.2 9 after 1"],
        ),
    ):
        pickers.known[name] = replicas
        pickers.notify(MembershipChange((), (), frozenset({str(name)})))
        assert await stream.next_addresses() == {str(name): expected}


async def test_oversized_request_ends_only_its_stream(endpoints: Datastore, pickers: Pickers) -> None:
    discovery = EdsServer(endpoints, "127.0.0.1:0", pickers)
    await discovery.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{discovery.port}") as channel:
        large, usual = Stream(channel), Stream(channel)
        await large.subscribe("x" * (2 << 20))
        await usual.subscribe(POOL_A)
        assert await usual.next_addresses() == {POOL_A: ["10.0.0.1 8000", "fd00::1 8000"]}
        assert await large.status_code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await discovery.stop()


async def test_stream_beyond_the_limit_is_rejected(
    endpoints: Datastore, pickers: Pickers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eds_server, "MAX_STREAMS", 1)
    discovery = EdsServer(endpoints, "127.0.0.1:0", pickers)
    await discovery.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{discovery.port}") as channel:
        first = Stream(channel)
        await first.subscribe(POOL_A)
        await first.next_addresses()
        assert await Stream(channel).status_code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await discovery.stop()
