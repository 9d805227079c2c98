"""Requests whose picker is killed, stopped or hangs, through a real Envoy."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, pool, route, to_pool
from load import load
from picker.xds.ext_proc_filter import MESSAGE_TIMEOUT_S
from upstream import Upstream
from waiting import eventually, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"model": "m"}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[GatewayParts]:
    manifests = [
        pool("open", failure_mode="FailOpen"),
        pool("close", failure_mode="FailClose"),
        route("open", "open", {"backendRefs": [to_pool("open")]}),
        route("close", "close", {"backendRefs": [to_pool("close")]}),
    ]
    upstreams = {"open": [Upstream("a"), Upstream("b")], "close": [Upstream("c"), Upstream("d")]}
    async with GatewayParts(upstreams, ["open", "close"], manifests, separate_picker=True) as parts:
        yield parts


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: GatewayParts) -> AsyncIterator[GatewayParts]:
    for upstream in running.all_upstreams:
        upstream.reset()
    yield running
    await running.start_picker()
    await _serves(running, "close")


async def _serves(gateway: GatewayParts, listener: str) -> None:
    async def serves() -> bool:
        return (await gateway.client.post(gateway.url(listener), content=BODY)).status_code == 200

    await eventually(serves, f"{listener} serves")


async def test_without_a_picker_the_pools_failure_mode_applies(gateway: GatewayParts) -> None:
    """A FailOpen pool keeps serving. A FailClose pool responds with 503."""
    async with load([gateway.url("open")]) as answers:
        await gateway.kill_picker()
        since = answers.mark()
        await answers.more(50)
        closed = await gateway.client.post(gateway.url("close"), content=BODY)
    assert answers.counts.keys() == {200}
    assert answers.servers_since(since) == {"a", "b"}
    assert closed.status_code == 503


async def test_without_a_picker_a_client_cannot_choose_its_endpoint(gateway: GatewayParts) -> None:
    await gateway.kill_picker()
    chosen = gateway.upstreams["close"][0].address
    headers = {"x-gateway-destination-endpoint": chosen}
    answers = [await gateway.client.post(gateway.url("open"), content=BODY, headers=headers) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {200}
    assert (await gateway.client.post(gateway.url("close"), content=BODY, headers=headers)).status_code == 503


@pytest.mark.parametrize("listener", ["open", "close"])
async def test_a_running_response_survives_its_picker(gateway: GatewayParts, listener: str) -> None:
    headers = {"x-behave": "hold"}
    async with gateway.client.stream("POST", gateway.url(listener), content=BODY, headers=headers) as stream:
        await gateway.kill_picker()
        for upstream in gateway.all_upstreams:
            upstream.released.set()
        assert (await stream.aread()).count(b"data: ") == 3


@pytest.mark.parametrize("listener", ["open", "close"])
async def test_a_waiting_request_survives_its_picker(gateway: GatewayParts, listener: str) -> None:
    response = asyncio.create_task(
        gateway.client.post(gateway.url(listener), content=BODY, headers={"x-behave": "wait"})
    )
    await until(
        lambda: any(upstream.waiting.is_set() for upstream in gateway.all_upstreams), "a server has the request"
    )
    await gateway.kill_picker()
    for upstream in gateway.all_upstreams:
        upstream.released.set()
    assert (await response).status_code == 200


async def test_a_graceful_stop_of_the_picker_fails_no_request(gateway: GatewayParts) -> None:
    body = b'{"model": "m", "prompt": "hello"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ports["close"])
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body[:10])
    waiting = asyncio.create_task(gateway.client.post(gateway.url("close"), content=BODY, headers={"x-behave": "wait"}))
    await until(
        lambda: any(upstream.waiting.is_set() for upstream in gateway.all_upstreams), "a server has the request"
    )
    assert gateway.picker_process is not None
    gateway.picker_process.process.terminate()
    for upstream in gateway.all_upstreams:
        upstream.released.set()
    assert (await waiting).status_code == 200
    # The body arrives while the picker drains, and the request still gets its pick.
    writer.write(body[10:])
    assert b" 200 OK" in await reader.readline()
    writer.close()
    assert await gateway.picker_process.process.wait() == 0


async def test_a_hanging_picker_delays_requests_by_the_message_timeout(gateway: GatewayParts) -> None:
    assert gateway.picker_process is not None
    gateway.picker_process.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(MESSAGE_TIMEOUT_S + 5.0):
            opened, closed = await asyncio.gather(
                *(gateway.client.post(gateway.url(listener), content=BODY) for listener in ("open", "close"))
            )
    finally:
        await gateway.kill_picker()
    assert (opened.status_code, closed.status_code) == (200, 503)
