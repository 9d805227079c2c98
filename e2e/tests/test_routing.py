"""HTTPRoutes through a real Envoy: precedence of rules, backends, filters, and edits without restart."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, pool, route, service, to_pool, to_service
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def on(backend: object, path: str = "/", kind: str = "PathPrefix", **more: object) -> dict[str, object]:
    return {"matches": [{"path": {"type": kind, "value": path}, **more}], "backendRefs": [backend]}


MATCHES = route(
    "matches",
    "main",
    on(to_pool("a")),
    on(to_pool("b"), "/v1/completions"),
    on(to_pool("c"), "/v1/completions", "Exact"),
    on(to_service("b"), "/v1/models/.*", "RegularExpression"),
    on(to_pool("b"), headers=[{"name": "X-Team", "value": "blue"}]),
    on(to_pool("c"), headers=[{"name": "x-team", "value": "b.*e", "type": "RegularExpression"}], method="PUT"),
    on(to_pool("c"), queryParams=[{"name": "team", "value": "blue"}]),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[GatewayParts]:
    changes = {
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": {
            "set": [{"name": "x-set", "value": "1"}],
            "add": [{"name": "x-add", "value": "2"}],
            "remove": ["x-gone"],
        },
    }
    answers = {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-by", "value": "gw"}]}}
    manifests = [
        *(pool(name) for name in "abc"),
        *(service(name) for name in "abc"),
        MATCHES,
        route("split", "split", {"backendRefs": [to_pool("a", 3), to_pool("b", 1), to_pool("c", 0)]}),
        route("mixed", "mixed", {"backendRefs": [to_pool("a"), to_service("b"), to_pool("nowhere")]}),
        route("missing", "missing", {"backendRefs": [to_pool("nowhere")]}),
        route("exact-host", "hosts", on(to_pool("a")), hostnames=["a.example.com"]),
        route("any-host", "hosts", on(to_pool("b")), hostnames=["*.example.com"]),
        route("headers", "headers", {"backendRefs": [to_pool("a")], "filters": [changes, answers]}),
        route("timed", "timed", {"backendRefs": [to_pool("a")], "timeouts": {"request": "300ms"}}),
    ]
    listeners = ["main", "split", "mixed", "missing", "hosts", "headers", "timed"]
    upstreams = {name: [Upstream(name)] for name in "abc"}
    async with GatewayParts(upstreams, listeners, manifests) as parts:
        yield parts


async def send(gateway: GatewayParts, listener: str, path: str = "/v1/completions", **more: object) -> httpx.Response:
    arguments: dict[str, object] = {"method": "POST", "content": b'{"model": "m"}', **more}
    return await gateway.client.request(url=gateway.url(listener, path), **arguments)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("path", "server"),
    [
        ("/", "a"),
        ("/tokenize", "a"),
        ("/v1/completions", "c"),
        ("/v1/completions/more", "b"),
        ("/v1/completionsmore", "a"),
        ("/v1/models/x", "b"),
        ("/v1/models", "a"),
        ("/?team=blue", "c"),
    ],
)
async def test_the_most_specific_path_wins(gateway: GatewayParts, path: str, server: str) -> None:
    answer = await send(gateway, "main", path)
    assert (answer.status_code, answer.json()["served_by"]) == (200, server)


async def test_a_method_then_headers_decide_between_equal_paths(gateway: GatewayParts) -> None:
    """A match with a method precedes a match with headers."""
    blue = {"x-team": "blue"}
    assert (await send(gateway, "main", "/tokenize", headers=blue)).json()["served_by"] == "b"
    assert (await send(gateway, "main", "/tokenize", headers=blue, method="PUT")).json()["served_by"] == "c"
    assert (await send(gateway, "main", "/tokenize", headers={"x-team": "red"})).json()["served_by"] == "a"


async def test_two_pools_in_a_rule_share_by_weight(gateway: GatewayParts) -> None:
    """Each request is scheduled in the pool that Envoy chose."""
    counts = Counter([(await send(gateway, "split")).json()["served_by"] for _ in range(120)])
    assert counts.keys() == {"a", "b"}
    assert 65 < counts["a"] < 112, "about three quarters"


async def test_a_missing_backends_share_gets_500(gateway: GatewayParts) -> None:
    answers = [await send(gateway, "mixed") for _ in range(60)]
    served = {answer.json()["served_by"] for answer in answers if answer.status_code == 200}
    assert served == {"a", "b"}
    assert {answer.status_code for answer in answers} == {200, 500}


async def test_a_route_without_backends_gets_500_with_the_missing_names(gateway: GatewayParts) -> None:
    answer = await send(gateway, "missing")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert "InferencePool default/nowhere" in answer.json()["error"]["message"]


async def test_the_most_specific_host_name_wins(gateway: GatewayParts) -> None:
    """An unknown host name gets 404."""
    statuses: dict[str, object] = {}
    for host in ("a.example.com", "a.example.com:1234", "b.example.com", "example.com"):
        answer = await send(gateway, "hosts", headers={"host": host})
        statuses[host] = answer.json()["served_by"] if answer.status_code == 200 else answer.status_code
    assert statuses == {"a.example.com": "a", "a.example.com:1234": "a", "b.example.com": "b", "example.com": 404}


async def test_header_filters_change_request_and_response(gateway: GatewayParts) -> None:
    [upstream] = gateway.upstreams["a"]
    upstream.reset()
    answer = await send(gateway, "headers", headers={"x-set": "0", "x-add": "1", "x-gone": "1"})
    [received] = upstream.received
    assert received.headers["x-set"] == "1"
    assert received.headers["x-add"] in ("2", "1,2")
    assert "x-gone" not in received.headers
    assert answer.headers["x-by"] == "gw"


async def test_a_request_timeout_gets_504(gateway: GatewayParts) -> None:
    [upstream] = gateway.upstreams["a"]
    upstream.reset()
    answer = await send(gateway, "timed", headers={"x-behave": "wait"})
    assert answer.status_code == 504
    await gateway.nothing_in_flight()


async def test_an_edited_route_takes_effect_and_drops_no_stream(gateway: GatewayParts) -> None:
    for name in "abc":
        gateway.upstreams[name][0].reset()
    [a] = gateway.upstreams["a"]
    holding = {"x-behave": "hold"}
    async with gateway.client.stream(
        "POST", gateway.url("headers"), content=b'{"model": "m"}', headers=holding
    ) as stream:
        await a.waiting.wait()
        others = [
            manifest for manifest in gateway.manifests if manifest["metadata"]["name"] not in ("headers", "missing")
        ]
        new = route("new", "missing", {"backendRefs": [to_service("c")]})
        gateway.write(*others, route("headers", "headers", {"backendRefs": [to_pool("b")]}), new)

        async with asyncio.timeout(5.0):
            while (await send(gateway, "headers")).json()["served_by"] != "b":
                pass
            while (answer := await send(gateway, "missing")).status_code != 200:
                assert answer.status_code == 500, "until the edit is in force, only the old response"
        assert answer.json()["served_by"] == "c"
        a.released.set()
        text = "".join([part async for part in stream.aiter_text()])
    assert text.count("data: ") == 3
    gateway.write(*gateway.manifests)
