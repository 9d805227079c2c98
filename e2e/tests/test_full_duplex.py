"""Bodies streamed through the picker in full duplex (FULL_DUPLEX_STREAMED), as other gateways do, with a real Envoy."""

import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, model, pool, route, to_pool
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
DUPLEX = {
    "request_body_mode": "FULL_DUPLEX_STREAMED",
    "request_trailer_mode": "SEND",
    "response_header_mode": "SEND",
    "response_body_mode": "FULL_DUPLEX_STREAMED",
    "response_trailer_mode": "SEND",
}


def in_full_duplex(listeners: str) -> str:
    """Replaces the processing mode of Envoy's ext_proc filter."""
    modes = ", ".join(f'"{name}": "{mode}"' for name, mode in DUPLEX.items())
    changed, count = re.subn(
        r'"processing_mode": \{[^}]*\}', f'"processing_mode": {{"request_header_mode": "SEND", {modes}}}', listeners
    )
    assert count == 1
    return changed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[GatewayParts]:
    manifests = [
        pool("main"),
        model("requested/model", "main", served=1),
        route("main", "main", {"backendRefs": [to_pool("main")]}),
        route(
            "models",
            "main",
            {
                "matches": [{"headers": [{"name": "X-Gateway-Model-Name", "value": "m"}]}],
                "backendRefs": [to_pool("main")],
            },
            hostnames=["models.example.com"],
        ),
    ]
    upstreams = {"main": [Upstream("a"), Upstream("b")]}
    async with GatewayParts(upstreams, ["main"], manifests, amend_listeners=in_full_duplex) as parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    for upstream in running.all_upstreams:
        upstream.reset()
    yield running
    await running.nothing_in_flight()


@pytest.mark.parametrize("size", [100, 62_000, 130_000, MIB, 5 * MIB, 15 * MIB])
async def test_a_body_passes_complete(gateway: GatewayParts, size: int) -> None:
    start = b'{"model": "m", "prompt": "'
    body = start + b"x" * (size - len(start) - 2) + b'"}'
    answer = await gateway.client.post(gateway.url("main"), content=body, headers={"x-behave": "echo"})
    assert (answer.status_code, answer.content == body) == (200, True)


@pytest.mark.parametrize("size", [100, 130_000, 5 * MIB])
async def test_a_body_that_selects_its_route_passes_complete(gateway: GatewayParts, size: int) -> None:
    """It is buffered before the picker gets it in pieces."""
    start = b'{"model": "m", "prompt": "'
    body = start + b"x" * (size - len(start) - 2) + b'"}'
    headers = {"host": "models.example.com", "content-type": "application/json", "x-behave": "echo"}
    answer = await gateway.client.post(gateway.url("main"), content=body, headers=headers)
    assert (answer.status_code, answer.content == body) == (200, True)


async def test_a_chunked_body_passes_complete(gateway: GatewayParts) -> None:
    body = json.dumps({"model": "m", "prompt": "x" * 300_000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7000):
            yield body[start : start + 7000]

    answer = await gateway.client.post(gateway.url("main"), content=chunks(), headers={"x-behave": "echo"})
    assert (answer.status_code, answer.content == body) == (200, True)


async def test_a_response_has_the_requested_models_name(gateway: GatewayParts) -> None:
    body = b'{"model": "requested/model"}'
    assert (await gateway.client.post(gateway.url("main"), content=body)).json()["model"] == "requested/model"
    answer = await gateway.client.post(gateway.url("main"), content=body, headers={"x-behave": "stream"})
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert events == [{"model": "requested/model", "n": n} for n in range(3)]
    assert {request.body for upstream in gateway.all_upstreams for request in upstream.received} == {
        b'{"model": "served"}'
    }


async def test_a_get_is_served(gateway: GatewayParts) -> None:
    assert (await gateway.client.get(gateway.url("main", "/v1/models"))).status_code == 200


async def test_an_invalid_body_gets_an_error_with_a_code(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("main"), content=b"hello")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body-not-json")
