"""Routing by the model in the body, through a real Envoy and the picker."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, Manifest, model, pool, route, service, to_pool, to_service
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json"}
MIB = 1 << 20


def by_model(backend: object, value: str, header: str = "X-Gateway-Model-Name", kind: str = "Exact") -> Manifest:
    backends = backend if isinstance(backend, list) else [backend]
    return {"matches": [{"headers": [{"type": kind, "name": header, "value": value}]}], "backendRefs": backends}


def adapters(base: str, *names: str, namespace: str = "default") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{base}-adapters",
            "namespace": namespace,
            "labels": {"inference.llm-d.ai/ipp-managed": "true"},
        },
        "data": {"baseModel": base, "adapters": "".join(f"- {name}\n" for name in names)},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[GatewayParts]:
    manifests = [
        *(pool(name) for name in "abc"),
        service("s"),
        model("alias-b", "b", "Standard", **{"base-b": 1}),
        adapters("base-b", "lora-1", "org/lora-2"),
        adapters("base-of-another", "lora-1", "model-a", namespace="another"),
        route(
            "models",
            "main",
            by_model(to_pool("a"), "model-a"),
            by_model(to_pool("b"), "base-b", "x-gateway-BASE-model-name"),
            by_model([to_pool("a", 3), to_pool("c", 1)], "canary"),
            by_model(to_service("s"), "re-.*", kind="RegularExpression"),
            {"matches": [{"path": {"value": "/files"}}], "backendRefs": [to_service("s")]},
        ),
        route("plain-host", "main", {"backendRefs": [to_service("s")]}, hostnames=["plain.example.com"]),
        route(
            "own-list",
            "main",
            by_model(to_pool("a"), "model-a"),
            {"matches": [{"path": {"type": "Exact", "value": "/v1/models"}}], "backendRefs": [to_service("s")]},
            hostnames=["own.example.com"],
        ),
        route(
            "fallback",
            "main",
            by_model(to_service("s"), "model-s"),
            {"backendRefs": [to_pool("c")]},
            hostnames=["fallback.example.com"],
        ),
    ]
    upstreams = {name: [Upstream(name)] for name in "abcs"}
    async with GatewayParts(upstreams, ["main"], manifests, ["--max-body-bytes=3000000"]) as parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    for upstream in running.all_upstreams:
        upstream.reset()
    yield running
    await running.nothing_in_flight()


async def post(
    gateway: GatewayParts,
    content: object,
    path: str = "/v1/completions",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    body = content if isinstance(content, bytes | AsyncIterator) else json.dumps(content).encode()
    return await gateway.client.post(gateway.url("main", path), content=body, headers={**JSON, **(headers or {})})


def served_by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()["served_by"]


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("model-a", "a"),
        ("base-b", "b"),
        ("lora-1", "b"),
        ("org/lora-2", "b"),
        ("alias-b", "b"),
        ("re-gression", "s"),
    ],
)
async def test_the_model_in_the_body_selects_the_route(gateway: GatewayParts, name: str, server: str) -> None:
    """Adapters have the base model of a ConfigMap in the route's namespace, or of the pool that declares them."""
    assert served_by(await post(gateway, {"messages": [{"model": "base-b"}], "model": name})) == server
    [received] = gateway.upstreams[server][0].received
    assert received.headers["x-gateway-model-name"] == name
    assert received.headers["x-gateway-base-model-name"] == ("base-b" if server == "b" else name)


async def test_the_picker_serves_routes_to_pools_only(gateway: GatewayParts) -> None:
    """The chain of filters is created before the route is known."""
    await post(gateway, {"model": "model-a"})
    await post(gateway, {"model": "re-x"})
    picked = {
        name: "x-gateway-destination-endpoint" in received.headers
        for name in "as"
        for received in gateway.upstreams[name][0].received
    }
    assert picked == {"a": True, "s": False}


async def test_canary_splits_a_model_between_two_pools(gateway: GatewayParts) -> None:
    answers = await asyncio.gather(*(post(gateway, {"model": "canary"}) for _ in range(200)))
    counts = Counter(map(served_by, answers))
    assert set(counts) == {"a", "c"}
    assert 20 < counts["c"] < 80


@pytest.mark.parametrize("header", ["X-Gateway-Model-Name", "x-gateway-base-model-name", "x-gateway-model-missing"])
async def test_a_clients_header_selects_no_route(gateway: GatewayParts, header: str) -> None:
    spoofed = {header: "base-b"}
    assert served_by(await post(gateway, {"model": "model-a"}, headers=spoofed)) == "a"
    [received] = gateway.upstreams["a"][0].received
    assert (received.headers["x-gateway-model-name"], received.headers["x-gateway-base-model-name"]) == (
        "model-a",
        "model-a",
    )
    assert (await post(gateway, {"prompt": "x"}, headers=spoofed)).status_code == 404
    assert (await gateway.client.get(gateway.url("main", "/x"), headers=spoofed)).status_code == 404
    on_other_host = {**spoofed, "host": "plain.example.com"}
    assert served_by(await post(gateway, {"model": "base-b"}, headers=on_other_host)) == "s"
    [received] = gateway.upstreams["s"][0].received
    assert not [name for name in received.headers if name.startswith("x-gateway-")]


async def test_an_unknown_model_gets_openais_error(gateway: GatewayParts) -> None:
    name = 'no"such\\ \u00e9 %REQ(host)% <model>'
    answer = await post(gateway, {"model": name})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "error": {
            "message": f"The model `{name}` does not exist or you do not have access to it.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


@pytest.mark.parametrize(
    "body",
    [b'{"prompt": "x"}', b"not json", b"[]", b"", b'{"model": null}', b'{"model": "model-a\\r\\nx-evil: 1"}'],
)
async def test_a_body_without_a_model_gets_an_error(gateway: GatewayParts, body: bytes) -> None:
    answer = await post(gateway, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")


async def test_a_route_without_a_model_serves_what_no_other_route_does(gateway: GatewayParts) -> None:
    host = {"host": "fallback.example.com"}
    assert served_by(await post(gateway, {"model": "other"}, headers=host)) == "c"
    assert served_by(await post(gateway, {"prompt": "x"}, "/other", headers=host)) == "c"
    assert served_by(await post(gateway, {"model": "model-s"}, headers=host)) == "s"
    assert served_by(await gateway.client.get(gateway.url("main", "/health"), headers=host)) == "c"
    for received in gateway.upstreams["c"][0].received:
        assert "x-gateway-model-missing" not in received.headers


async def test_a_route_by_path_is_not_read(gateway: GatewayParts) -> None:
    body = b'{"model": "model-a"}' + b" " * 4 * MIB
    assert served_by(await post(gateway, body, "/files/upload")) == "s"
    [received] = gateway.upstreams["s"][0].received
    assert "x-gateway-model-name" not in received.headers


async def test_a_form_has_the_model_of_its_field(gateway: GatewayParts) -> None:
    files = {"file": ("name.wav", b'\r\n\0name="model"' * 30_000, "audio/wav")}
    url = gateway.url("main", "/v1/audio/transcriptions")
    answer = await gateway.client.post(url, data={"model": "model-a", "language": "en"}, files=files)
    assert served_by(answer) == "a"
    answer = await gateway.client.post(url, data={"model": "none"}, files=files)
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("size", [40_000, 2_000_000])
async def test_a_large_body_passes(gateway: GatewayParts, size: int) -> None:
    """Beyond the 32 KiB of a listener's buffer, also without a length."""
    for name, server in (("model-a", "a"), ("re-x", "s")):
        body = json.dumps({"prompt": "x" * size, "model": name}).encode()

        async def chunks(body: bytes = body) -> AsyncIterator[bytes]:
            for start in range(0, len(body), 30_000):
                yield body[start : start + 30_000]

        for content in (body, chunks()):
            answer = await post(gateway, content, headers={"x-behave": "echo"})
            assert answer.content == body, server


@pytest.mark.parametrize("name", ["model-a", "re-x", "unknown"])
async def test_a_body_over_the_limit_gets_413(gateway: GatewayParts, name: str) -> None:
    answer = await post(gateway, {"prompt": "x" * 4 * MIB, "model": name})
    assert answer.status_code == 413


async def test_a_response_streams(gateway: GatewayParts) -> None:
    headers = {**JSON, "x-behave": "hold"}
    request = gateway.client.stream(
        "POST", gateway.url("main"), content=b'{"model": "model-a", "stream": true}', headers=headers
    )
    async with request as answer:
        parts = answer.aiter_raw()
        assert (await anext(parts)).startswith(b"data:")
        gateway.upstreams["a"][0].released.set()
        assert [part async for part in parts]


async def test_the_list_has_the_models_of_all_pools(gateway: GatewayParts) -> None:
    answer = await gateway.client.get(gateway.url("main", "/v1/models?x=1"), headers=JSON)
    assert answer.headers["content-type"] == "application/json"
    listed = answer.json()
    assert listed["object"] == "list"
    assert {item["id"]: item.get("parent") for item in listed["data"]} == {
        "alias-b": "base-b",
        "base-b": None,
        "canary": None,
        "lora-1": "base-b",
        "model-a": None,
        "org/lora-2": "base-b",
    }
    assert listed["data"][0] == {
        "id": "alias-b",
        "object": "model",
        "created": 0,
        "owned_by": "inference-gateway",
        "parent": "base-b",
    }


async def test_the_list_has_anthropics_shape_for_its_clients(gateway: GatewayParts) -> None:
    answer = await gateway.client.get(gateway.url("main", "/v1/models"), headers={"anthropic-version": "2023-06-01"})
    listed = answer.json()
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("alias-b", "org/lora-2", False)
    assert listed["data"][1] == {
        "type": "model",
        "id": "base-b",
        "display_name": "base-b",
        "created_at": "1970-01-01T00:00:00Z",
    }


async def test_a_users_route_for_the_list_wins(gateway: GatewayParts) -> None:
    answer = await gateway.client.get(gateway.url("main", "/v1/models"), headers={"host": "own.example.com"})
    assert served_by(answer) == "s"


async def test_a_websocket_passes(gateway: GatewayParts) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ports["main"])
    head = "\r\n".join(
        [
            "GET /files/realtime HTTP/1.1", "host: x", "upgrade: websocket", "connection: upgrade",
            "content-type: application/json", "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
    )  # fmt: skip
    writer.write(head.encode() + b"\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5.0)).startswith(b"HTTP/1.1 ")
    writer.close()
    [received] = gateway.upstreams["s"][0].received
    assert received.headers["upgrade"] == "websocket"


async def test_the_limit_on_reading_does_not_limit_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that arrives too slowly ends the request. A response may take longer than that."""
    monkeypatch.setattr("picker.xds.model_routes.READ_TIMEOUT_S", 0.3)
    manifests = [pool("a"), route("models", "main", by_model(to_pool("a"), "model-a"))]
    upstream = Upstream("a")
    async with GatewayParts({"a": [upstream]}, ["main"], manifests) as parts:
        answering = asyncio.create_task(post(parts, {"model": "model-a"}, headers={"x-behave": "wait"}))
        await upstream.waiting.wait()
        await asyncio.sleep(1.0)
        upstream.released.set()
        assert served_by(await answering) == "a"

        reader, writer = await asyncio.open_connection("127.0.0.1", parts.ports["main"])
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
        )
        writer.write(head.encode() + b'{"model": ')
        status_line = await asyncio.wait_for(reader.readline(), 5.0)
        assert status_line.split()[1] == b"408"
        writer.close()
