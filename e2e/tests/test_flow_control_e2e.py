"""Requests that the picker holds while the servers are full, through a real Envoy."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, model, pool, route, to_pool
from picker.resources.inference import Criticality
from test_full_duplex import in_full_duplex
from upstream import METRICS, Upstream
from waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Ten seconds until it begins with another: enough to hold every request, and too little to turn Standard ones away.
FULL = METRICS.replace(b'waiting{model_name="m"} 0', b'waiting{model_name="m"} 20')
TIME_LIMIT_S = 2.0
MOST = 3
ARGUMENTS = (
    "--flow-control",
    "--trusted-headers=x-gateway-inference-fairness-id",
    f"--flow-control-time-limit-s={TIME_LIMIT_S}",
    f"--flow-control-max-requests={MOST}",
    "--scrape-interval-s=0.05",
)
MANIFESTS = [
    pool("main"),
    *(model(each.lower(), "main", each.value, **{f"{each.lower()}-v2": 1}) for each in Criticality),
    route("main", "main", {"backendRefs": [to_pool("main")]}),
]


def impatient(listeners: str) -> str:
    """Envoy would give up long before the picker does, if it were not asked for patience."""
    changed, count = re.subn(r'"message_timeout": "5s"', '"message_timeout": "0.300s"', listeners)
    assert count == 1
    return changed


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["buffered", "full duplex"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[GatewayParts]:
    def amended(listeners: str) -> str:
        return impatient(in_full_duplex(listeners) if request.param == "full duplex" else listeners)

    parts = GatewayParts({"main": [Upstream("a")]}, ["main"], MANIFESTS, ARGUMENTS, amended)
    async with parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    """Its only server is full."""
    [upstream] = running.all_upstreams
    upstream.reset()
    await _becomes(running, FULL)
    yield running
    await until(lambda: held(running) == 0, "something is still held")
    await running.nothing_in_flight()


async def _becomes(gateway: GatewayParts, metrics: bytes) -> None:
    """Until the picker knows."""
    for upstream in gateway.all_upstreams:
        upstream.metrics = metrics
    depth = 20 if metrics is FULL else 0

    def seen() -> bool:
        return all(endpoint.queue_depth == depth for endpoint in gateway.picker.endpoint_states())

    await until(seen, "the picker does not see it")


def held(gateway: GatewayParts) -> int:
    assert gateway.picker.flow_control is not None
    return sum(each.requests for each in gateway.picker.flow_control.waiting())


async def ask(gateway: GatewayParts, criticality: str, flow: str = "") -> "asyncio.Task[httpx.Response]":
    """A request that is held, as one of a client's."""
    before = held(gateway)
    headers = {"x-gateway-inference-fairness-id": flow} if flow else {}
    content = b'{"model": "%s", "prompt": "hello"}' % criticality.lower().encode()
    asked = asyncio.create_task(gateway.client.post(gateway.url("main"), content=content, headers=headers))
    await until(lambda: asked.done() or held(gateway) == before + 1, "it is not held")
    return asked


async def test_the_most_critical_go_first_and_clients_take_turns(gateway: GatewayParts) -> None:
    """All held, and all served in the end, their models renamed as ever."""
    before = len(gateway.picker.observability.decisions)
    asked = [
        await ask(gateway, criticality, flow)
        for criticality, flow in (("Sheddable", "a"), ("Standard", "a"), ("Standard", "a"), ("Standard", "b"))
    ]
    asked.append(await ask(gateway, "Critical"))
    await _becomes(gateway, METRICS)
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["model"] for answer in answers] == ["sheddable", *["standard"] * 3, "critical"]
    decisions = list(gateway.picker.observability.decisions)[: -before or None]
    models = [decision.request.requested_model for decision in reversed(decisions)]
    assert models == ["critical", "standard", "standard", "standard", "sheddable"]
    assert len(gateway.all_upstreams[0].received) == 5


async def test_what_has_waited_to_its_end_is_answered_in_words(gateway: GatewayParts) -> None:
    """By the picker, not by an Envoy that has lost patience."""
    began_s = asyncio.get_running_loop().time()
    answer = await (await ask(gateway, "Standard"))
    waited_s = asyncio.get_running_loop().time() - began_s
    assert (answer.status_code, answer.headers["x-inference-gateway-reason"]) == (503, "queue-timeout")
    assert answer.json()["error"]["message"] == (
        "No model server had capacity for this Standard request within 2 seconds."
    )
    assert waited_s >= TIME_LIMIT_S
    assert gateway.all_upstreams[0].received == []


async def test_a_critical_one_goes_on_when_its_time_is_over(gateway: GatewayParts) -> None:
    """It waits at the server then."""
    answer = await (await ask(gateway, "Critical"))
    assert answer.status_code == 200


async def test_more_than_may_wait_are_turned_away_at_once(gateway: GatewayParts) -> None:
    """Those that wait already are not."""
    asked = [await ask(gateway, "Sheddable") for _ in range(MOST)]
    answer = await (await ask(gateway, "Sheddable"))
    assert (answer.status_code, answer.headers["x-inference-gateway-reason"]) == (429, "queue-full")
    await _becomes(gateway, METRICS)
    assert {each.status_code for each in await asyncio.gather(*asked)} == {200}


async def test_a_client_that_leaves_while_it_is_held_leaves_no_trace(gateway: GatewayParts) -> None:
    """Its request never reaches a server, and its place is free."""
    asked = await ask(gateway, "Standard")
    asked.cancel()
    await until(lambda: held(gateway) == 0, "it is still held")
    await _becomes(gateway, METRICS)
    assert (await gateway.client.post(gateway.url("main"), content=b'{"model": "standard"}')).status_code == 200
    assert len(gateway.all_upstreams[0].received) == 1


async def test_metrics_tell_what_is_held(gateway: GatewayParts) -> None:
    """By criticality."""
    asked = [await ask(gateway, "Standard") for _ in range(2)]
    metrics = await gateway.client.get(f"http://{gateway.settings.admin_address}/metrics")
    lines = metrics.text.splitlines()
    assert 'inference_gateway_held_requests{criticality="Standard",pool="default/main"} 2.0' in lines
    assert 'inference_gateway_held_requests{criticality="Sheddable",pool="default/main"} 0.0' in lines
    await _becomes(gateway, METRICS)
    assert {each.status_code for each in await asyncio.gather(*asked)} == {200}


async def test_what_generates_nothing_is_not_held(gateway: GatewayParts) -> None:
    """A list of models costs the servers nothing."""
    assert (await gateway.client.get(gateway.url("main", "/v1/models"))).status_code == 200


async def test_a_picker_that_stops_decides_what_it_holds(gateway: GatewayParts) -> None:
    """As it would have without holding it: Standard ones go on, Sheddable ones are asked to come again. The picker that
    stops is another than that of the other tests."""
    parts = GatewayParts({"main": [Upstream("a")]}, ["main"], MANIFESTS, ARGUMENTS, impatient)
    async with parts:
        await _becomes(parts, FULL)
        standard, sheddable = await ask(parts, "Standard"), await ask(parts, "Sheddable")
        parts._stop.set()
        answers = [await standard, await sheddable]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].headers["x-inference-gateway-reason"] == "saturated"
