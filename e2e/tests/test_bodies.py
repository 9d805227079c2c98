"""Bodies and headers pass the gateway unchanged: large bodies, unusual JSON, rewritten models, HTTP/2 servers."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, model, pool, pool_v1, route, service, to_pool, to_service
from h2c_upstream import H2cUpstream
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[GatewayParts]:
    manifests = [
        pool("main"),
        pool("rewriting"),
        pool_v1("h2c", "kubernetes.io/h2c"),
        model("requested/model", "rewriting", served=1),
        service("main"),
        route("main", "main", {"backendRefs": [to_pool("main")]}),
        route("plain", "plain", {"backendRefs": [to_service("main")]}),
        route("rewriting", "rewriting", {"backendRefs": [to_pool("rewriting")]}),
        route("h2c", "h2c", {"backendRefs": [to_pool("h2c", group="inference.networking.k8s.io")]}),
    ]
    upstreams = {
        "main": [Upstream("a"), Upstream("b")],
        "rewriting": [Upstream("c")],
        "h2c": [H2cUpstream("d")],
    }
    async with GatewayParts(upstreams, ["main", "plain", "rewriting", "h2c"], manifests) as parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    for upstream in running.all_upstreams:
        upstream.reset()
    yield running
    await running.nothing_in_flight()


async def echoed(gateway: GatewayParts, body: bytes, listener: str = "main") -> bytes:
    answer = await gateway.client.post(gateway.url(listener), content=body, headers={"x-behave": "echo"})
    assert answer.status_code == 200, answer.text[:200]
    return answer.content


@pytest.mark.parametrize("size", [MIB, 5 * MIB, 15 * MIB])
async def test_a_large_body_passes_complete(gateway: GatewayParts, size: int) -> None:
    start = b'{"model": "m", "prompt": "'
    body = start + b"x" * (size - len(start) - 2) + b'"}'
    assert await echoed(gateway, body) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","seed":9007199254740993}',
        b'{"model":"m","x":1e400,"b":1,"a":2}',
        b'{ "model" : "\\u006d", "prompt": "<&>\xc3\xa9\\u00e9" }\n',
    ],
    ids=["beyond 2**53", "beyond a double, keys unsorted", "escapes and spaces"],
)
async def test_a_body_passes_unchanged(gateway: GatewayParts, body: bytes) -> None:
    assert await echoed(gateway, body) == body


async def test_rewriting_a_model_changes_only_its_bytes(gateway: GatewayParts) -> None:
    body = b'{"seed": 9007199254740993, "model": "requested/model", "prompt": "requested/model"}'
    await gateway.client.post(gateway.url("rewriting"), content=body)
    [received] = gateway.upstreams["rewriting"][0].received
    assert received.body == b'{"seed": 9007199254740993, "model": "served", "prompt": "requested/model"}'


async def test_a_response_has_the_requested_models_name(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("rewriting"), content=b'{"model": "requested/model"}')
    assert answer.json()["model"] == "requested/model"
    assert "content-length" not in answer.headers or int(answer.headers["content-length"]) == len(answer.content)


async def test_a_model_name_split_between_chunks_is_rewritten(gateway: GatewayParts) -> None:
    headers = {"x-behave": "stream"}
    answer = await gateway.client.post(
        gateway.url("rewriting"), content=b'{"model": "requested/model"}', headers=headers
    )
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert events == [{"model": "requested/model", "n": n} for n in range(3)]


async def test_a_response_for_an_undeclared_model_is_unchanged(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("rewriting"), content=b'{"model": "served"}')
    assert answer.json()["model"] == "served"
    body = b'{"model": "requested/model"}'
    assert await echoed(gateway, body, "rewriting") == b'{"model": "served"}'


async def test_a_stream_passes_unchanged(gateway: GatewayParts) -> None:
    body = b'{"model": "m"}'
    through = await gateway.client.post(gateway.url("main"), content=body, headers={"x-behave": "stream"})
    direct = await gateway.client.post(
        f"http://{gateway.upstreams['main'][0].address}/v1/completions", content=body, headers={"x-behave": "stream"}
    )
    assert through.content == direct.content


@pytest.mark.parametrize("listener", ["main", "plain"])
async def test_headers_pass_and_only_those_of_the_protocols_are_added(gateway: GatewayParts, listener: str) -> None:
    sent = {"authorization": "Bearer x", "x-request-id": "mine", "user-agent": "me", "accept": "a/b"}
    answer = await gateway.client.post(gateway.url(listener), content=b'{"model": "m"}', headers=sent)
    assert set(answer.headers) == {"content-type", "content-length", "date", "x-request-id"}
    assert answer.headers["x-request-id"] == "mine"
    [received] = [request for upstream in gateway.upstreams["main"] for request in upstream.received]
    assert sent.items() <= received.headers.items()
    added = received.headers.keys() - sent.keys() - {"host", "content-length", "connection", "accept-encoding"}
    picked = {"x-gateway-destination-endpoint"} if listener == "main" else set[str]()
    assert added == {"x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address"} | picked


async def test_a_pool_of_http2_servers_gets_http2(gateway: GatewayParts) -> None:
    body = json.dumps({"model": "m", "prompt": "x" * 200_000}).encode()
    answer = await gateway.client.post(gateway.url("h2c"), content=body)
    assert answer.json() == {"served_by": "d", "bytes": len(body)}


async def test_the_plain_port_does_not_use_the_picker(gateway: GatewayParts) -> None:
    assert await echoed(gateway, b"not json", "plain") == b"not json"
    names = {(await gateway.client.get(gateway.url("plain", "/v1/models"))).json()["served_by"] for _ in range(20)}
    assert names == {"a", "b"}
