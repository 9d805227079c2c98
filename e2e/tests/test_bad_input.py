"""Responses to invalid input, through a real Envoy. No request stays in flight after any case."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, model, pool, route, to_pool
from picker.requestcontrol.director import Director
from upstream import Upstream
from waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT_BYTES = 1 << 20
BUSY = b"vllm:num_requests_running 100\nvllm:num_requests_waiting 50\nvllm:kv_cache_usage_perc 0.99\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[GatewayParts]:
    manifests = [
        pool("main"),
        pool("empty"),
        model("sheddable", "main", "Sheddable"),
        model("critical", "main", "Critical"),
        route("main", "main", {"backendRefs": [to_pool("main")]}),
        route("empty", "empty", {"backendRefs": [to_pool("empty")]}),
    ]
    upstreams = {"main": [Upstream("a"), Upstream("b")]}
    async with GatewayParts(upstreams, ["main", "empty"], manifests, [f"--max-body-bytes={LIMIT_BYTES}"]) as parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    for upstream in running.all_upstreams:
        upstream.reset()
    yield running
    await running.nothing_in_flight()


async def post(gateway: GatewayParts, body: bytes, listener: str = "main", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.client.post(gateway.url(listener), content=body, headers=sent)


def reason(answer: httpx.Response) -> str:
    """Reason of a rejection. Header and error body have to agree."""
    code = answer.json()["error"]["code"]
    assert answer.headers["x-inference-gateway-reason"] == code
    return code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"hello", "body-not-json"),
        (b'["model"]', "body-not-json"),
        (b'{"model": "m", "prompt": ', "body-not-json"),
        (b'{"prompt": "hi"}', "model-missing"),
        (b'{"model": 7}', "model-wrong-type"),
        (b'{"model": null}', "model-wrong-type"),
        (b'{"model": "%s"}' % (b"m" * 257), "model-too-long"),
    ],
)
async def test_a_body_without_a_valid_model_gets_400(gateway: GatewayParts, body: bytes, code: str) -> None:
    answer = await post(gateway, body)
    assert (answer.status_code, reason(answer)) == (400, code)


async def test_a_post_without_a_body_is_passed_on(gateway: GatewayParts) -> None:
    """One example is the cancellation of a response."""

    async def nothing() -> AsyncIterator[bytes]:
        for _ in ():
            yield b""

    path = "/v1/responses/resp_1/cancel"
    declared = await gateway.client.post(gateway.url("main", path))
    chunked = await gateway.client.post(gateway.url("main", path), content=nothing())
    assert [(answer.status_code, answer.json()["path"]) for answer in (declared, chunked)] == [(200, path)] * 2


async def test_a_body_over_the_limit_gets_413_with_the_limit(gateway: GatewayParts) -> None:
    answer = await post(gateway, b" " * (LIMIT_BYTES + 1))
    assert (answer.status_code, reason(answer)) == (413, "body-too-large")
    assert str(LIMIT_BYTES) in answer.text


async def test_a_chunked_body_over_the_limit_gets_413(gateway: GatewayParts) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * (LIMIT_BYTES // 20)

    answer = await gateway.client.post(gateway.url("main"), content=chunks())
    assert answer.status_code == 413


async def test_a_chunked_body_is_passed_on_complete(gateway: GatewayParts) -> None:
    body = json.dumps({"model": "m", "prompt": "x" * 100_000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7000):
            yield body[start : start + 7000]

    answer = await gateway.client.post(gateway.url("main"), content=chunks(), headers={"x-behave": "echo"})
    assert (answer.status_code, answer.content) == (200, body)


async def test_a_compressed_body_gets_415_with_its_encoding(gateway: GatewayParts) -> None:
    answer = await post(gateway, gzip.compress(b'{"model": "m"}'), content_encoding="gzip")
    assert (answer.status_code, reason(answer)) == (415, "body-encoded")
    assert "gzip" in answer.text


async def test_an_undeclared_model_is_passed_on(gateway: GatewayParts) -> None:
    answer = await post(gateway, b'{"model": "undeclared"}')
    assert (answer.status_code, answer.json()["model"]) == (200, "undeclared")


async def test_a_saturated_pool_rejects_sheddable_and_serves_critical_requests(gateway: GatewayParts) -> None:
    for upstream in gateway.all_upstreams:
        upstream.metrics = BUSY
    await until(
        lambda: all((state.queue_depth or 0) >= 50 for state in gateway.picker.endpoint_states()),
        "the scrapes show the queues",
    )
    shed = await post(gateway, b'{"model": "sheddable"}')
    assert (shed.status_code, reason(shed), shed.headers["retry-after"]) == (429, "saturated", "1")
    assert (await post(gateway, b'{"model": "critical"}')).status_code == 200


async def test_a_pool_without_servers_responds_with_503(gateway: GatewayParts) -> None:
    answer = await post(gateway, b'{"model": "m"}', listener="empty")
    assert (answer.status_code, reason(answer)) == (503, "no-ready-endpoints")


async def test_after_an_internal_error_the_next_request_is_served(
    gateway: GatewayParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(Director, "assign", fail)
        answer = await post(gateway, b'{"model": "m"}')
        assert (answer.status_code, reason(answer)) == (500, "internal")
    assert (await post(gateway, b'{"model": "m"}')).status_code == 200


async def test_a_get_is_passed_on(gateway: GatewayParts) -> None:
    answer = await gateway.client.get(gateway.url("main", "/v1/models"))
    assert (answer.status_code, answer.json()["path"]) == (200, "/v1/models")


async def test_a_path_without_a_model_needs_no_json(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("main", "/tokenize"), content=b"\xff", headers={"x-behave": "echo"})
    assert (answer.status_code, answer.content) == (200, b"\xff")


async def test_a_client_cannot_choose_its_endpoint(gateway: GatewayParts) -> None:
    chosen = gateway.all_upstreams[0]
    headers = {
        "x-gateway-destination-endpoint": "127.0.0.1:1",
        "x-gateway-destination-endpoint-served": chosen.address,
        "x-gateway-destination-endpoint-subset": chosen.address,
    }
    for _ in range(40):
        answer = await gateway.client.post(gateway.url("main"), content=b'{"model": "m"}', headers=headers)
        assert answer.status_code == 200
    received = [request for upstream in gateway.all_upstreams for request in upstream.received]
    assert len(received) == 40
    assert not any("x-gateway-destination-endpoint-subset" in request.headers for request in received)
    assert not any("x-gateway-destination-endpoint-served" in request.headers for request in received)
    all_addresses = {upstream.address for upstream in gateway.all_upstreams}
    assert all(
        set(request.headers["x-gateway-destination-endpoint"].split(",")) == all_addresses for request in received
    )


async def test_a_disconnect_within_the_request_body_sends_no_request(gateway: GatewayParts) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.ports["main"])
    writer.write(b'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"model": ')
    await writer.drain()
    writer.transport.abort()
    assert not any(upstream.received for upstream in gateway.all_upstreams)


async def test_a_disconnect_before_the_response_frees_the_endpoint(gateway: GatewayParts) -> None:
    await _assert_disconnect_frees_endpoint(gateway, "wait")


async def test_a_disconnect_within_the_response_frees_the_endpoint(gateway: GatewayParts) -> None:
    await _assert_disconnect_frees_endpoint(gateway, "hold")


async def _assert_disconnect_frees_endpoint(gateway: GatewayParts, behave: str) -> None:
    body = b'{"model": "m"}'
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.ports["main"])
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-behave: %s\r\ncontent-length: %d\r\n\r\n%s"
        % (behave.encode(), len(body), body)
    )
    await writer.drain()
    await until(lambda: any(upstream.waiting.is_set() for upstream in gateway.all_upstreams), "a server has a request")
    assert gateway.picker.tracker.total.requests == 1
    writer.transport.abort()
    await until(
        lambda: any(upstream.left.is_set() for upstream in gateway.all_upstreams), "the server sees the disconnect"
    )
