"""The picker's queue for a saturated pool, through a real Envoy."""

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

# With 20 waiting requests a new one starts after about ten seconds: it is queued, but a Standard one is not rejected.
FULL = METRICS.replace(b'waiting{model_name="m"} 0', b'waiting{model_name="m"} 20')
TIME_LIMIT_S = 2.0
MAX_REQUESTS = 3
ARGUMENTS = (
    "--flow-control",
    "--trusted-headers=x-llm-d-inference-fairness-id",
    f"--flow-control-time-limit-s={TIME_LIMIT_S}",
    f"--flow-control-max-requests={MAX_REQUESTS}",
    "--scrape-interval-s=0.05",
)
MANIFESTS = [
    pool("main"),
    *(
        model(criticality.lower(), "main", criticality.value, **{f"{criticality.lower()}-v2": 1})
        for criticality in Criticality
    ),
    route("main", "main", {"backendRefs": [to_pool("main")]}),
]


def with_short_message_timeout(listeners: str) -> str:
    """Sets a message timeout far below the time in the queue: the picker has to extend it."""
    changed, count = re.subn(r'"message_timeout": "5s"', '"message_timeout": "0.300s"', listeners)
    assert count == 1
    return changed


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["buffered", "full duplex"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[GatewayParts]:
    def amended(listeners: str) -> str:
        return with_short_message_timeout(in_full_duplex(listeners) if request.param == "full duplex" else listeners)

    parts = GatewayParts({"main": [Upstream("a")]}, ["main"], MANIFESTS, ARGUMENTS, amended)
    async with parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    """The gateway, with its only server saturated."""
    [upstream] = running.all_upstreams
    upstream.reset()
    await _set_metrics(running, FULL)
    yield running
    await until(lambda: queued(running) == 0, "the queue is empty")
    await running.nothing_in_flight()


async def _set_metrics(gateway: GatewayParts, metrics: bytes) -> None:
    """Sets the servers' metrics, and waits until the picker has scraped them."""
    for upstream in gateway.all_upstreams:
        upstream.metrics = metrics
    depth = 20 if metrics is FULL else 0

    def scraped() -> bool:
        return all(state.queue_depth == depth for state in gateway.picker.endpoint_states())

    await until(scraped, "the picker has scraped them")


def queued(gateway: GatewayParts) -> int:
    """Number of queued requests."""
    return sum(queue.requests for queue in gateway.picker.flow_control.waiting())


async def enqueue(gateway: GatewayParts, criticality: str, flow: str = "") -> "asyncio.Task[httpx.Response]":
    """Sends a request, and waits until it is queued or has a response. `flow`: id of the client."""
    before = queued(gateway)
    headers = {"x-llm-d-inference-fairness-id": flow} if flow else {}
    content = b'{"model": "%s", "prompt": "hello"}' % criticality.lower().encode()
    request = asyncio.create_task(gateway.client.post(gateway.url("main"), content=content, headers=headers))
    await until(lambda: request.done() or queued(gateway) == before + 1, "the request is queued")
    return request


async def test_queued_requests_are_released_by_criticality(gateway: GatewayParts) -> None:
    """All requests are queued and then served, with their models rewritten."""
    before = len(gateway.picker.observability.decisions)
    requests = [
        await enqueue(gateway, criticality, flow)
        for criticality, flow in (("Sheddable", "a"), ("Standard", "a"), ("Standard", "a"), ("Standard", "b"))
    ]
    requests.append(await enqueue(gateway, "Critical"))
    await _set_metrics(gateway, METRICS)
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["model"] for answer in answers] == ["sheddable", *["standard"] * 3, "critical"]
    decisions = list(gateway.picker.observability.decisions)[: -before or None]
    models = [decision.request.requested_model for decision in reversed(decisions)]
    assert models == ["critical", "standard", "standard", "standard", "sheddable"]
    assert len(gateway.all_upstreams[0].received) == 5


async def test_a_request_over_the_time_limit_gets_503(gateway: GatewayParts) -> None:
    """The response is the picker's. Envoy's message timeout has not expired."""
    began_s = asyncio.get_running_loop().time()
    answer = await (await enqueue(gateway, "Standard"))
    waited_s = asyncio.get_running_loop().time() - began_s
    assert (answer.status_code, answer.headers["x-inference-gateway-reason"]) == (429, "queue-timeout")
    assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-ttl-expired"
    assert answer.json()["error"]["message"] == (
        "No model server had capacity for this Standard request within 2 seconds."
    )
    assert waited_s >= TIME_LIMIT_S
    assert gateway.all_upstreams[0].received == []


async def test_a_critical_request_over_the_time_limit_is_sent_on(gateway: GatewayParts) -> None:
    """It then waits in the server's queue."""
    answer = await (await enqueue(gateway, "Critical"))
    assert answer.status_code == 200


async def test_a_request_to_a_full_queue_is_rejected_at_once(gateway: GatewayParts) -> None:
    """Requests that are already queued stay."""
    requests = [await enqueue(gateway, "Sheddable") for _ in range(MAX_REQUESTS)]
    answer = await (await enqueue(gateway, "Sheddable"))
    assert (answer.status_code, answer.headers["x-inference-gateway-reason"]) == (429, "queue-full")
    assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
    await _set_metrics(gateway, METRICS)
    assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}


async def test_a_disconnect_while_queued_removes_the_request(gateway: GatewayParts) -> None:
    """The request does not reach a server, and its place in the queue is free."""
    request = await enqueue(gateway, "Standard")
    request.cancel()
    await until(lambda: queued(gateway) == 0, "the queue is empty")
    await _set_metrics(gateway, METRICS)
    assert (await gateway.client.post(gateway.url("main"), content=b'{"model": "standard"}')).status_code == 200
    assert len(gateway.all_upstreams[0].received) == 1


async def test_metrics_report_queued_requests(gateway: GatewayParts) -> None:
    """There is one series per priority that waits."""
    requests = [await enqueue(gateway, "Standard") for _ in range(2)]
    metrics = await gateway.client.get(f"http://{gateway.settings.admin_address}/metrics")
    lines = metrics.text.splitlines()
    assert 'inference_gateway_queued_requests{criticality="Standard",pool="default/main",priority="0"} 2.0' in lines
    assert sum(line.startswith("inference_gateway_queued_requests{") for line in lines) == 1
    await _set_metrics(gateway, METRICS)
    assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}


async def test_a_request_that_generates_nothing_is_not_queued(gateway: GatewayParts) -> None:
    """A list of models needs no capacity."""
    assert (await gateway.client.get(gateway.url("main", "/v1/models"))).status_code == 200


async def test_a_stopping_picker_releases_its_queue(gateway: GatewayParts) -> None:
    """It decides as without a queue: Standard requests are sent on, and Sheddable ones are rejected.

    This test stops a picker of its own.
    """
    parts = GatewayParts({"main": [Upstream("a")]}, ["main"], MANIFESTS, ARGUMENTS, with_short_message_timeout)
    async with parts:
        await _set_metrics(parts, FULL)
        standard, sheddable = await enqueue(parts, "Standard"), await enqueue(parts, "Sheddable")
        parts.stop_picker()
        answers = [await standard, await sheddable]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].headers["x-inference-gateway-reason"] == "saturated"
