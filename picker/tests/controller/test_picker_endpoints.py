"""The replicas of the pickers that pools name."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from api_server import ApiServer, api_servers
from picker.controller.picker_endpoints import PickerEndpoints
from picker.resources.names import ObjectName
from picker.sources.informer import kubernetes_client
from picker.xds.picker_ref import PickerName, PickerReplicas, PickerUnknown

NAME = ObjectName("default", "picker")
PICKER = PickerName(NAME, 9002)
OWN_LABELS = {"app.kubernetes.io/part-of": "inference-gateway"}
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def metadata(name: str, version: int) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "resourceVersion": str(version)}


def service(
    protocol: str | None = "http2",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    port: dict[str, Any] = {"name": "grpc", "port": 9002, "targetPort": 9000}
    if protocol is not None:
        port["appProtocol"] = protocol
    ports = [{"name": "metrics", "port": 9090}, port]
    full_metadata = {**metadata("picker", 1), "labels": labels or {}, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": full_metadata, "spec": {"ports": ports}}


def endpoint_slice(version: int, *ready: str, waiting: tuple[str, ...] = ()) -> dict[str, Any]:
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in ready]
    endpoints += [{"addresses": [address], "conditions": {"ready": False}} for address in waiting]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata("picker-abc", version),
        "endpoints": endpoints,
        "ports": [{"name": "metrics", "port": 9090}, {"name": "grpc", "port": 9000}],
    }


@dataclass(slots=True)
class Followed:
    pickers: PickerEndpoints
    services: ApiServer
    slices: ApiServer
    changes: "asyncio.Queue[frozenset[str]]"

    async def follow(self) -> PickerReplicas | None:
        """Follows the picker, waits for the first change, and returns its replicas."""
        self.pickers.follow([PICKER])
        return await self.next_replicas()

    async def next_replicas(self) -> PickerReplicas | None:
        assert await asyncio.wait_for(self.changes.get(), 5) == {"inferencepicker/default/picker/9002"}
        return self.pickers.replicas(PICKER)


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    async with api_servers(SERVICES, SLICES) as ([services, slices], config), asyncio.TaskGroup() as tasks:
        services.objects, slices.objects = [service()], [endpoint_slice(1, "10.0.0.1", waiting=("10.0.0.2",))]
        followed_ = Followed(PickerEndpoints(kubernetes_client(config)), services, slices, asyncio.Queue())
        followed_.pickers.start(tasks)
        followed_.pickers.listen(lambda change: followed_.changes.put_nowait(change.readdressed))
        yield followed_
        followed_.pickers.follow(())
        for server in (services, slices):
            server.events.put_nowait(None)


async def test_ready_pods_of_the_port_are_the_replicas(followed: Followed) -> None:
    """The addresses have the pods' port, not the Service's."""
    assert await followed.follow() == PickerReplicas(("10.0.0.1:9000",), uses_tls=True)


async def test_change_of_the_pods_is_reported(followed: Followed) -> None:
    """One pod becomes ready, one is deleted."""
    await followed.follow()
    followed.slices.send_event("MODIFIED", endpoint_slice(2, "10.0.0.2", "fd00::1"))
    expected = PickerReplicas(("10.0.0.2:9000", "[fd00::1]:9000"), uses_tls=True)
    assert await followed.next_replicas() == expected


async def test_missing_service_has_no_replicas(followed: Followed) -> None:
    """The result is known and reported, also for a Service without that port."""
    followed.services.objects = []
    assert await followed.follow() == PickerReplicas((), uses_tls=False)
    followed.pickers.follow([PickerName(NAME, 80)])
    assert followed.pickers.replicas(PickerName(NAME, 80)) == PickerReplicas((), uses_tls=False)


@pytest.mark.parametrize(
    ("protocol", "uses_tls"), [("kubernetes.io/h2c", False), ("http2", True), ("https", True), (None, True)]
)
async def test_only_app_protocol_h2c_disables_tls(followed: Followed, protocol: str | None, uses_tls: bool) -> None:
    """Upstream's picker uses TLS by default, and its Service has `http2`."""
    followed.services.objects = [service(protocol=protocol)]
    replicas = await followed.follow()
    assert replicas is not None
    assert replicas.uses_tls == uses_tls


async def test_pods_with_and_without_tls_are_distinguished(followed: Followed) -> None:
    """During a rollout, pods with TLS have an additional named port and their own EndpointSlice."""
    mixed_service = service()
    mixed_service["spec"]["ports"].append({"name": "grpc-tls", "port": 9012, "targetPort": "grpc-tls"})
    followed.services.objects = [mixed_service]
    plain, with_tls_port = endpoint_slice(1, "10.0.0.1"), endpoint_slice(1, "10.0.0.2")
    with_tls_port["metadata"]["name"] = "picker-def"
    with_tls_port["ports"].append({"name": "grpc-tls", "port": 9000})
    followed.slices.objects = [plain, with_tls_port]
    replicas = await followed.follow()
    assert replicas is not None
    assert replicas.addresses == ("10.0.0.1:9000", "10.0.0.2:9000")
    assert replicas.with_tls == {"10.0.0.2:9000"}


@pytest.mark.parametrize(("labels", "is_own"), [(OWN_LABELS, True), ({}, False)])
async def test_own_pickers_have_the_label(followed: Followed, labels: dict[str, str], is_own: bool) -> None:
    """It also works for a pool that Envoy Gateway has read first."""
    followed.services.objects = [service(labels=labels)]
    assert await followed.pickers.is_own_picker(NAME) == is_own


async def test_unreadable_service_is_unknown(followed: Followed) -> None:
    """A rejected request does not show whose picker it is."""
    followed.services.refuse = lambda _: web.Response(status=403)
    with pytest.raises(PickerUnknown):
        await followed.pickers.is_own_picker(NAME)


@pytest.mark.parametrize(
    ("labels", "spread", "failover"),
    [(OWN_LABELS, "", True), (OWN_LABELS, "false", True), (OWN_LABELS, "true", False), ({}, "", False)],
)
async def test_only_own_pickers_are_used_in_failover_order(
    followed: Followed, labels: dict[str, str], spread: str, failover: bool
) -> None:
    """How third-party pickers share their work is not known."""
    annotations = {"inference.networking.x-k8s.io/spread-pickers": spread} if spread else {}
    followed.services.objects = [service(labels=labels, annotations=annotations)]
    replicas = await followed.follow()
    assert replicas is not None
    assert replicas.failover == failover


async def test_picker_without_a_pool_is_no_longer_followed(followed: Followed) -> None:
    """Its replicas are unknown afterwards."""
    await followed.follow()
    followed.pickers.follow(())
    assert followed.pickers.replicas(PICKER) is None


@pytest.mark.parametrize("text", ["inferencepicker/none", "inferencepool/default/red", "inferencepicker/a/b/http"])
def test_other_eds_names_are_not_pickers(text: str) -> None:
    """Envoy also requests the EDS names of pools and Services."""
    assert PickerName.of_text(str(PICKER)) == PICKER
    assert PickerName.of_text(text) is None
