"""Where the pickers are that pools name."""

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
from picker.xds.picker_ref import PickerName, PickerPlaces, PickerUnknown

NAME = ObjectName("default", "picker")
PICKER = PickerName(NAME, 9002)
OURS = {"app.kubernetes.io/part-of": "inference-gateway"}
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
    described = {**metadata("picker", 1), "labels": labels or {}, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": described, "spec": {"ports": ports}}


def endpoint_slice(version: int, *ready: str, waiting: tuple[str, ...] = ()) -> dict[str, Any]:
    endpoints = [{"addresses": [each], "conditions": {"ready": True}} for each in ready]
    endpoints += [{"addresses": [each], "conditions": {"ready": False}} for each in waiting]
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
    told: "asyncio.Queue[frozenset[str]]"

    async def follow(self) -> PickerPlaces | None:
        """Until they have been told; where they are."""
        self.pickers.follow([PICKER])
        return await self.next_places()

    async def next_places(self) -> PickerPlaces | None:
        assert await asyncio.wait_for(self.told.get(), 5) == {"inferencepicker/default/picker/9002"}
        return self.pickers.places(PICKER)


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    async with api_servers(SERVICES, SLICES) as ([services, slices], config), asyncio.TaskGroup() as tasks:
        services.objects, slices.objects = [service()], [endpoint_slice(1, "10.0.0.1", waiting=("10.0.0.2",))]
        made = Followed(PickerEndpoints(kubernetes_client(config)), services, slices, asyncio.Queue())
        made.pickers.start(tasks)
        made.pickers.listen(lambda change: made.told.put_nowait(change.readdressed))
        yield made
        made.pickers.follow(())
        for server in (services, slices):
            server.events.put_nowait(None)


async def test_the_ready_pods_behind_the_port_that_the_pool_names_are_told(followed: Followed) -> None:
    """By the port that they listen on."""
    assert await followed.follow() == PickerPlaces(("10.0.0.1:9000",), by_tls=True)


async def test_a_change_of_the_pods_is_told(followed: Followed) -> None:
    """One that is ready now, one that has gone."""
    await followed.follow()
    followed.slices.tell("MODIFIED", endpoint_slice(2, "10.0.0.2", "fd00::1"))
    assert await followed.next_places() == PickerPlaces(("10.0.0.2:9000", "[fd00::1]:9000"), by_tls=True)


async def test_a_service_that_is_not_there_has_none(followed: Followed) -> None:
    """Which is known, and told; so is a Service without that port."""
    followed.services.objects = []
    assert await followed.follow() == PickerPlaces((), by_tls=False)
    followed.pickers.follow([PickerName(NAME, 80)])
    assert followed.pickers.places(PickerName(NAME, 80)) == PickerPlaces((), by_tls=False)


@pytest.mark.parametrize(
    ("protocol", "by_tls"), [("kubernetes.io/h2c", False), ("http2", True), ("https", True), (None, True)]
)
async def test_only_who_says_so_is_asked_without_tls(followed: Followed, protocol: str | None, by_tls: bool) -> None:
    """Upstream's picker speaks TLS unless told otherwise, and its Service says http2."""
    followed.services.objects = [service(protocol=protocol)]
    places = await followed.follow()
    assert places is not None
    assert places.by_tls == by_tls


async def test_while_a_rollout_changes_tls_each_pod_is_asked_as_it_listens(followed: Followed) -> None:
    """Pods by TLS have a port of another name besides, and an EndpointSlice of their own."""
    written = service()
    written["spec"]["ports"].append({"name": "grpc-tls", "port": 9012, "targetPort": "grpc-tls"})
    followed.services.objects = [written]
    plain, by_tls = endpoint_slice(1, "10.0.0.1"), endpoint_slice(1, "10.0.0.2")
    by_tls["metadata"]["name"] = "picker-def"
    by_tls["ports"].append({"name": "grpc-tls", "port": 9000})
    followed.slices.objects = [plain, by_tls]
    places = await followed.follow()
    assert places is not None
    assert places.addresses == ("10.0.0.1:9000", "10.0.0.2:9000")
    assert places.asked_by_tls == {"10.0.0.2:9000"}


@pytest.mark.parametrize(("labels", "ours"), [(OURS, True), ({}, False)])
async def test_our_pickers_are_told_by_their_label(followed: Followed, labels: dict[str, str], ours: bool) -> None:
    """Also when Envoy Gateway asks about a pool before we have heard of it."""
    followed.services.objects = [service(labels=labels)]
    assert await followed.pickers.is_own_picker(NAME) == ours


async def test_a_service_that_cannot_be_read_is_neither_ours_nor_anothers(followed: Followed) -> None:
    """A refusal is no word on whose picker it is."""
    followed.services.refuse = lambda _: web.Response(status=403)
    with pytest.raises(PickerUnknown):
        await followed.pickers.is_own_picker(NAME)


@pytest.mark.parametrize(
    ("labels", "spread", "in_turn"), [(OURS, "", True), (OURS, "false", True), (OURS, "true", False), ({}, "", False)]
)
async def test_of_our_pickers_one_is_asked_and_the_others_stand_by_unless_told_otherwise(
    followed: Followed, labels: dict[str, str], spread: str, in_turn: bool
) -> None:
    """How others share their work is not known."""
    annotations = {"inference.networking.x-k8s.io/spread-pickers": spread} if spread else {}
    followed.services.objects = [service(labels=labels, annotations=annotations)]
    places = await followed.follow()
    assert places is not None
    assert places.in_turn == in_turn


async def test_a_picker_that_no_pool_names_any_more_is_not_followed(followed: Followed) -> None:
    """And nothing is known of it."""
    await followed.follow()
    followed.pickers.follow(())
    assert followed.pickers.places(PICKER) is None


@pytest.mark.parametrize("text", ["inferencepicker/none", "inferencepool/default/red", "inferencepicker/a/b/http"])
def test_other_names_are_no_pickers(text: str) -> None:
    """Of what Envoy asks for."""
    assert PickerName.of_text(str(PICKER)) == PICKER
    assert PickerName.of_text(text) is None
