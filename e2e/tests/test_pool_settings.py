"""Settings of a pool that change while requests wait and run, through a real Envoy."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gateway_parts import V1ALPHA2, GatewayParts, Manifest, metric, model, pool, route, to_pool
from structlog.testing import capture_logs
from upstream import METRICS, Upstream
from waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# With 20 waiting requests a new one starts after about ten seconds: it is queued, but a Standard one is not rejected.
FULL = METRICS.replace(b'waiting{model_name="m"} 0', b'waiting{model_name="m"} 20')


def manifests(**settings: str) -> list[Manifest]:
    """The objects, with annotations of the pool."""
    made: dict[str, Any] = copy.deepcopy(dict(pool("main")))
    made["metadata"]["annotations"] |= {f"{V1ALPHA2}/{name.replace('_', '-')}": text for name, text in settings.items()}
    return [made, model("m", "main"), route("main", "main", {"backendRefs": [to_pool("main")]})]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[GatewayParts]:
    """A gateway whose picker has flow control off, with a saturated server."""
    parts = GatewayParts({"main": [Upstream("a")]}, ["main"], manifests(), ("--scrape-interval-s=0.05",))
    async with parts:
        parts.all_upstreams[0].metrics = FULL
        await until(
            lambda: all(state.queue_depth == 20 for state in parts.picker.endpoint_states()), "the server is full"
        )
        yield parts


async def changed(gateway: GatewayParts, **settings: str) -> None:
    """Writes the pool with these settings, and waits until they are in force."""
    gateway.write(*manifests(**settings))
    name = f"{V1ALPHA2}/default/main"
    shown = ", ".join(f"{key.replace('_', '-')}={value}" for key, value in settings.items())

    def in_force() -> bool:
        served = gateway.picker.director.served(name)
        assert served is not None
        own = served.pool.settings
        return [own.flow_control, own.flow_control_time_limit_s] == [
            {"true": True, "false": False}.get(settings.get("flow_control", "")),
            float(settings["flow_control_time_limit"].rstrip("s")) if "flow_control_time_limit" in settings else None,
        ]

    await until(in_force, f"in force: {shown}")


async def ask(gateway: GatewayParts) -> httpx.Response:
    return await gateway.client.post(gateway.url("main"), content=b'{"model": "m", "prompt": "hello"}')


async def waiting(gateway: GatewayParts, requests: int) -> None:
    """Waits until so many requests are queued."""
    await until(
        lambda: sum(queue.requests for queue in gateway.picker.flow_control.waiting()) == requests,
        f"{requests} requests are queued",
    )
    assert await metric(gateway, "inference_gateway_queued_requests", pool="default/main") == requests


async def test_an_annotation_switches_flow_control_and_no_request_is_lost(gateway: GatewayParts) -> None:
    assert (await ask(gateway)).status_code == 200
    await changed(gateway, flow_control="true")
    [shown] = (await gateway.client.get(f"http://{gateway.settings.admin_address}/pools")).json()
    assert (shown["settings"]["flow_control"], shown["settings"]["scrape_interval_s"]) == (True, None)
    requests = [asyncio.create_task(ask(gateway)) for _ in range(5)]
    await waiting(gateway, 5)
    await changed(gateway, flow_control="false")
    assert [(await request).status_code for request in requests] == [200] * 5
    await gateway.nothing_in_flight()


async def test_a_shorter_time_limit_applies_to_requests_that_arrive_later(gateway: GatewayParts) -> None:
    await changed(gateway, flow_control="true")
    before = asyncio.create_task(ask(gateway))
    await waiting(gateway, 1)
    await changed(gateway, flow_control="true", flow_control_time_limit="1s")
    answer = await ask(gateway)
    assert answer.headers["x-inference-gateway-reason"] == "queue-timeout"
    assert not before.done()
    await changed(gateway)
    assert (await before).status_code == 200
    await gateway.nothing_in_flight()


async def test_an_invalid_setting_is_logged_and_changes_nothing(gateway: GatewayParts) -> None:
    """Nor does an unknown one."""
    await changed(gateway, flow_control="true")
    request = asyncio.create_task(ask(gateway))
    await waiting(gateway, 1)
    with capture_logs() as logs:
        gateway.write(*manifests(flow_control="no"))
        await until(lambda: any("found 'no'" in line.get("problem", "") for line in logs), "the value is logged")
        gateway.write(*manifests(flow_control="true", flow_controls="false"))
        await until(
            lambda: any("flow-controls is unknown" in line.get("problem", "") for line in logs), "the name is logged"
        )
    await waiting(gateway, 1)
    await changed(gateway)
    assert (await request).status_code == 200
