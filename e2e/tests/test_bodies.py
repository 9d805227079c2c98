"""What passes through the gateway arrives as it was sent: large bodies, odd JSON, renamed models, HTTP/2 servers."""

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
        pool("renaming"),
        pool_v1("h2c", "kubernetes.io/h2c"),
        model("asked/for", "renaming", served=1),
        service("main"),
        route("main", "main", {"backendRefs": [to_pool("main")]}),
        route("plain", "plain", {"backendRefs": [to_service("main")]}),
        route("renaming", "renaming", {"backendRefs": [to_pool("renaming")]}),
        route("h2c", "h2c", {"backendRefs": [to_pool("h2c", group="inference.networking.k8s.io")]}),
    ]
    upstreams = {
        "main": [Upstream("a"), Upstream("b")],
        "renaming": [Upstream("c")],
        "h2c": [H2cUpstream("d")],
    }
    async with GatewayParts(upstreams, ["main", "plain", "renaming", "h2c"], manifests) as parts:
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
async def test_a_body_of_many_mib_passes_whole(gateway: GatewayParts, size: int) -> None:
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
async def test_no_byte_of_a_body_changes(gateway: GatewayParts, body: bytes) -> None:
    assert await echoed(gateway, body) == body


async def test_a_renamed_model_changes_those_bytes_alone(gateway: GatewayParts) -> None:
    body = b'{"seed": 9007199254740993, "model": "asked/for", "prompt": "asked/for"}'
    await gateway.client.post(gateway.url("renaming"), content=body)
    [received] = gateway.upstreams["renaming"][0].received
    assert received.body == b'{"seed": 9007199254740993, "model": "served", "prompt": "asked/for"}'


async def test_an_answer_names_the_model_that_was_asked_for(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("renaming"), content=b'{"model": "asked/for"}')
    assert answer.json()["model"] == "asked/for"
    assert "content-length" not in answer.headers or int(answer.headers["content-length"]) == len(answer.content)


async def test_a_stream_names_the_model_that_was_asked_for_even_where_chunks_split_it(gateway: GatewayParts) -> None:
    headers = {"x-behave": "stream"}
    answer = await gateway.client.post(gateway.url("renaming"), content=b'{"model": "asked/for"}', headers=headers)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert events == [{"model": "asked/for", "n": n} for n in range(3)]


async def test_an_answer_to_another_model_of_a_renaming_pool_is_left_alone(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("renaming"), content=b'{"model": "served"}')
    assert answer.json()["model"] == "served"
    body = b'{"model": "asked/for"}'
    assert await echoed(gateway, body, "renaming") == b'{"model": "served"}'


async def test_a_stream_passes_as_it_was_sent(gateway: GatewayParts) -> None:
    body = b'{"model": "m"}'
    through = await gateway.client.post(gateway.url("main"), content=body, headers={"x-behave": "stream"})
    direct = await gateway.client.post(
        f"http://{gateway.upstreams['main'][0].address}/v1/completions", content=body, headers={"x-behave": "stream"}
    )
    assert through.content == direct.content


@pytest.mark.parametrize("listener", ["main", "plain"])
async def test_headers_pass_both_ways_and_only_what_the_protocols_need_is_added(
    gateway: GatewayParts, listener: str
) -> None:
    sent = {"authorization": "Bearer x", "x-request-id": "mine", "user-agent": "me", "accept": "a/b"}
    answer = await gateway.client.post(gateway.url(listener), content=b'{"model": "m"}', headers=sent)
    assert set(answer.headers) == {"content-type", "content-length", "date", "x-request-id"}
    assert answer.headers["x-request-id"] == "mine"
    [received] = [request for upstream in gateway.upstreams["main"] for request in upstream.received]
    assert sent.items() <= received.headers.items()
    added = received.headers.keys() - sent.keys() - {"host", "content-length", "connection", "accept-encoding"}
    picked = {"x-gateway-destination-endpoint"} if listener == "main" else set[str]()
    assert added == {"x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address"} | picked


async def test_a_pool_of_http2_servers_is_spoken_to_in_http2(gateway: GatewayParts) -> None:
    body = json.dumps({"model": "m", "prompt": "x" * 200_000}).encode()
    answer = await gateway.client.post(gateway.url("h2c"), content=body)
    assert answer.json() == {"served_by": "d", "bytes": len(body)}


async def test_the_plain_port_does_not_ask_the_picker(gateway: GatewayParts) -> None:
    assert await echoed(gateway, b"not json", "plain") == b"not json"
    names = {(await gateway.client.get(gateway.url("plain", "/v1/models"))).json()["served_by"] for _ in range(20)}
    assert names == {"a", "b"}
