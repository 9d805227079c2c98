"""Pickers of other projects behind a real Envoy, in both body modes: those that work, and those that fail."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from composed_envoy import running_envoy, with_endpoints
from e2e.processes import free_ports
from envoy.config.route.v3 import route_components_pb2, route_pb2
from picker.resources.inference import (
    AppProtocol,
    FailureMode,
    InferencePool,
    PickerBodyMode,
    PickerRef,
    RoutingStrategy,
)
from picker.resources.names import POOL_GROUP_V1, ObjectName, PoolName
from picker.xds.clusters import eds_picker_cluster, pool_cluster, service_cluster
from picker.xds.config_source import file_source
from picker.xds.extension import Extension, ExtensionConfig, RuleBackend
from picker.xds.listeners import http_listener
from picker.xds.picker_ref import PickerName
from picker_stand_in import Behaviour, PickerStandIn
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICKER = ObjectName("default", "picker")
NO_EDS = "127.0.0.1:1"
RULE = "httproute/default/chat/rule/0"
DUPLEX, BUFFERED = PickerBodyMode.DUPLEX, PickerBodyMode.BUFFERED
FAILURES = [
    Behaviour.BODY_FIRST, Behaviour.WRONG_PHASE, Behaviour.ERROR_AT_HEADERS, Behaviour.ERROR_AT_BODY
]  # fmt: skip


def pool(mode: PickerBodyMode, failure_mode: FailureMode) -> InferencePool:
    name = PoolName(POOL_GROUP_V1, "default", f"{mode}-{failure_mode.lower()}")
    reference = PickerRef(PICKER, 9002, failure_mode, mode)
    return InferencePool(name, {"app": "a"}, (8000,), reference, AppProtocol.HTTP, RoutingStrategy.DEFAULT)


@dataclass(frozen=True)
class Gateway:
    client: httpx.AsyncClient
    port: int
    upstreams: tuple[Upstream, Upstream]

    @property
    def picked(self) -> str:
        """The endpoint that the picker chooses. The fallback of a FailOpen pool may choose either."""
        return self.upstreams[1].address

    async def post(
        self,
        behaviour: Behaviour,
        mode: PickerBodyMode,
        failure_mode: FailureMode = FailureMode.FAIL_CLOSE,
        size: int = 2000,
        upstream: str = "echo",
    ) -> httpx.Response:
        body = b'{"model": "m", "prompt": "' + b"x" * size + b'"}'
        chosen = {"x-picker": behaviour, "x-pick": self.picked, "x-behave": upstream}
        url = f"http://127.0.0.1:{self.port}/{mode}-{failure_mode.lower()}"
        answer = await self.client.post(url, content=body, headers=chosen)
        if answer.status_code == 200:
            assert answer.content == body
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = await stack.enter_async_context(Upstream("a"))
        second = await stack.enter_async_context(Upstream("b"))
        picker = await stack.enter_async_context(PickerStandIn())
        extension = Extension(ExtensionConfig(NO_EDS, "cluster.local", 1 << 20))
        pools = [pool(mode, failure_mode) for mode in PickerBodyMode for failure_mode in FailureMode]
        host = route_components_pb2.VirtualHost(name="all", domains=["*"])
        for each in pools:
            route = route_components_pb2.Route()
            route.match.prefix = f"/{each.name.name}"
            route.route.cluster = RULE
            host.routes.append(extension.route(route, [each], [RuleBackend(each.name, 1)], {PICKER}))
        plain = host.routes.add()
        plain.match.prefix = "/plain"
        empty = service_cluster(ObjectName("default", "empty"), 80, NO_EDS)
        plain.route.cluster = empty.name
        routes = route_pb2.RouteConfiguration(name="http", virtual_hosts=[host])
        [port] = free_ports(1)
        listener = http_listener("http", "127.0.0.1", port, file_source(folder / "unused"))
        _, [listener] = extension.translation([], [listener], [routes])
        clusters = [
            *(with_endpoints(pool_cluster(each, NO_EDS), first.port, second.port) for each in pools),
            with_endpoints(eds_picker_cluster(PickerName(PICKER, 9002), NO_EDS), picker.port),
            with_endpoints(empty),
        ]
        await stack.enter_async_context(running_envoy(listener, routes, clusters, folder))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=20.0))
        yield Gateway(client, port, (first, second))


def is_followed(gateway: Gateway, before: int) -> bool:
    """Whether the picked endpoint has received a request since `before`."""
    return len(gateway.upstreams[1].received) == before + 1


@pytest.mark.parametrize("size", [100, 200_000])
@pytest.mark.parametrize(
    ("behaviour", "mode"),
    [
        (Behaviour.STREAMS, DUPLEX),
        (Behaviour.STREAMS, BUFFERED),
        (Behaviour.DEFERS, BUFFERED),
        (Behaviour.IN_ORDER, BUFFERED),
    ],
)
async def test_the_pick_is_followed_and_the_body_unchanged(
    gateway: Gateway, behaviour: Behaviour, mode: PickerBodyMode, size: int
) -> None:
    before = len(gateway.upstreams[1].received)
    answer = await gateway.post(behaviour, mode, size=size)
    assert (answer.status_code, is_followed(gateway, before)) == (200, True)


@pytest.mark.parametrize(
    ("behaviour", "mode"), [(Behaviour.STREAMS, DUPLEX), (Behaviour.DEFERS, BUFFERED), (Behaviour.IN_ORDER, BUFFERED)]
)
async def test_the_picker_is_sent_the_endpoint_that_served(
    gateway: Gateway, behaviour: Behaviour, mode: PickerBodyMode
) -> None:
    answer = await gateway.post(behaviour, mode)
    assert answer.headers["x-served"] == gateway.picked


async def test_a_picker_that_streams_the_body_back_is_not_asked_again_in_buffered_mode(gateway: Gateway) -> None:
    """Envoy ends the exchange at the first part of the body."""
    assert "x-served" not in (await gateway.post(Behaviour.STREAMS, BUFFERED)).headers


@pytest.mark.parametrize("behaviour", FAILURES)
async def test_fail_open_holds_in_buffered_mode(gateway: Gateway, behaviour: Behaviour) -> None:
    for _ in range(4):
        assert (await gateway.post(behaviour, BUFFERED, FailureMode.FAIL_OPEN)).status_code == 200


@pytest.mark.parametrize("behaviour", FAILURES)
async def test_fail_close_reports_the_reason_in_buffered_mode(gateway: Gateway, behaviour: Behaviour) -> None:
    answer = await gateway.post(behaviour, BUFFERED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no-endpoint")
    assert answer.headers["x-inference-gateway-reason"] == "no-endpoint"


@pytest.mark.parametrize("failure_mode", FailureMode)
@pytest.mark.parametrize("behaviour", [*FAILURES, Behaviour.DEFERS, Behaviour.IN_ORDER])
async def test_a_failure_after_the_body_is_a_503_with_the_reason_in_duplex_mode(
    gateway: Gateway, behaviour: Behaviour, failure_mode: FailureMode
) -> None:
    """Envoy keeps no copy of the body, so that the failure mode cannot apply."""
    answer = await gateway.post(behaviour, DUPLEX, failure_mode)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (503, "picker-failed", "service_unavailable_error")
    assert (answer.headers["retry-after"], answer.headers["content-type"]) == ("1", "application/json")
    assert ("spurious_message" in error["message"]) or ("gRPC_error_13" in error["message"])


async def test_a_picker_that_does_not_reply_is_a_failed_picker_in_buffered_mode(gateway: Gateway) -> None:
    """After the message timeout of 5 s."""
    modes = FailureMode.FAIL_OPEN, FailureMode.FAIL_CLOSE
    answers = await asyncio.gather(*(gateway.post(Behaviour.SILENT, BUFFERED, mode) for mode in modes))
    assert [answer.status_code for answer in answers] == [200, 503]


@pytest.mark.parametrize("mode", PickerBodyMode)
async def test_a_rejection_reaches_the_client(gateway: Gateway, mode: PickerBodyMode) -> None:
    answer = await gateway.post(Behaviour.REJECTS, mode)
    assert (answer.status_code, answer.content) == (429, b"full")


@pytest.mark.parametrize("mode", PickerBodyMode)
async def test_a_model_servers_error_is_unchanged(gateway: Gateway, mode: PickerBodyMode) -> None:
    answer = await gateway.post(Behaviour.STREAMS, mode, upstream="fail")
    assert (answer.status_code, answer.content) == (500, b"broken")


async def test_other_routes_keep_envoys_responses(gateway: Gateway) -> None:
    answer = await gateway.client.get(f"http://127.0.0.1:{gateway.port}/plain")
    assert (answer.status_code, answer.text) == (503, "no healthy upstream")
