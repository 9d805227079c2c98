"""Endpoints that are killed, removed or added again, and edits, under load through a real Envoy."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Generator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import pytest_asyncio
from gateway_parts import V1ALPHA2, GatewayParts, pool, route, to_pool
from load import load
from structlog.testing import capture_logs
from upstream import Upstream
from waiting import until

BODY = b'{"model": "m"}'


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[GatewayParts]:
    manifests = [pool("main"), route("main", "main", {"backendRefs": [to_pool("main")]})]
    upstreams = {"main": [Upstream("a"), Upstream("b"), Upstream("c")]}
    async with GatewayParts(upstreams, ["main"], manifests) as parts:
        yield parts
        await parts.nothing_in_flight()


async def send(gateway: GatewayParts, behave: str = "") -> httpx.Response:
    return await gateway.client.post(gateway.url("main"), content=BODY, headers={"x-behave": behave})


async def waiting_requests(gateway: GatewayParts, count: int) -> "list[asyncio.Task[httpx.Response]]":
    """Sends requests that wait in the servers. Each server gets some."""
    requests = [asyncio.create_task(send(gateway, "wait")) for _ in range(count)]
    await until(
        lambda: sum(len(upstream.received) for upstream in gateway.all_upstreams) == count,
        "all requests have reached a server",
    )
    return requests


async def test_waiting_requests_of_a_killed_server_are_retried(gateway: GatewayParts) -> None:
    """Other servers serve the requests to which the killed server had not responded."""
    requests = await waiting_requests(gateway, 12)
    dying, *others = gateway.all_upstreams
    assert len(dying.received) == 4
    for other in others:
        other.released.set()
    dying.die()
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["served_by"] for answer in answers} == {"b", "c"}


async def test_a_started_response_fails_with_its_server_and_is_not_retried(gateway: GatewayParts) -> None:
    async with gateway.client.stream("POST", gateway.url("main"), content=BODY, headers={"x-behave": "hold"}) as stream:
        [serving] = [upstream for upstream in gateway.all_upstreams if upstream.received]
        serving.die()
        with pytest.raises(httpx.HTTPError):
            await stream.aread()
    assert sum(len(upstream.received) for upstream in gateway.all_upstreams) == 1


async def test_a_request_that_resets_its_connections_reaches_two_servers(gateway: GatewayParts) -> None:
    """Retries are limited: a request that crashes servers must not crash all of them."""
    answer = await send(gateway, "reset")
    assert answer.status_code == 503
    assert sorted(len(upstream.received) for upstream in gateway.all_upstreams) == [0, 1, 1]


async def test_an_unreachable_server_delays_requests_by_the_connect_timeout(gateway: GatewayParts) -> None:
    """A server whose machine is unreachable neither accepts nor refuses a connection."""
    with silent_port() as port:
        unreachable = Upstream("unreachable", port=port)
        gateway.upstreams = {"main": [*gateway.upstreams["main"], unreachable]}
        gateway.write_endpoints()
        await until(lambda: len(list(gateway.picker.endpoint_states())) == 4, "the picker has four endpoints")
        results = await asyncio.gather(*(_timed(send(gateway)) for _ in range(12)))
        assert {answer.status_code for answer, _ in results} == {200}
        assert all(took_s < 5.0 for _, took_s in results)
        assert any(took_s > 0.4 for _, took_s in results), "no request was first sent to the unreachable server"


async def _timed(sending: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    began_s = time.monotonic()
    return await sending, time.monotonic() - began_s


@contextmanager
def silent_port() -> Generator[int]:
    """A port that neither accepts nor refuses connections, like an unreachable machine: its accept queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]


async def test_a_killed_server_causes_no_error_and_is_used_after_its_restart(gateway: GatewayParts) -> None:
    """The server is killed and restarted under load."""
    async with load([gateway.url("main")]) as answers:
        killed = gateway.all_upstreams[0]
        killed.die()
        await until(
            lambda: any(state.refuses_connections for state in gateway.picker.endpoint_states()),
            "the scrapes are refused",
        )
        since = answers.mark()
        await answers.more(100)
        assert answers.servers_since(since) <= {"b", "c"}
        async with Upstream("a", port=killed.port):
            await until(lambda: "a" in answers.servers_since(since), "the restarted server is used")
    assert answers.counts.keys() == {200}


async def test_a_removed_endpoint_gets_no_requests_and_completes_its_streams(gateway: GatewayParts) -> None:
    """The endpoint is removed from the endpoints file under load."""
    async with gateway.client.stream("POST", gateway.url("main"), content=BODY, headers={"x-behave": "hold"}) as stream:
        [removed] = [upstream for upstream in gateway.all_upstreams if upstream.received]
        async with load([gateway.url("main")]) as answers:
            gateway.write_endpoints(removed)
            await until(lambda: len(list(gateway.picker.endpoint_states())) == 2, "the picker has two endpoints")
            since = answers.mark() + 8
            await answers.more(100)
            assert removed.name not in answers.servers_since(since)
        removed.released.set()
        text = (await stream.aread()).decode()
    assert text.count("data: ") == 3
    assert answers.counts.keys() == {200}


async def test_an_edited_strategy_is_logged_and_fails_no_request(gateway: GatewayParts) -> None:
    """The pool's annotation is edited under load."""
    with capture_logs() as logs:
        async with load([gateway.url("main")]) as answers:
            gateway.write(pool("main", strategy="PREFIX_CACHE"), *gateway.manifests[1:])
            change = f"InferencePool {V1ALPHA2}/default/main: routing-strategy DEFAULT -> PREFIX_CACHE"
            await until(
                lambda: any(entry.get("change") == change for entry in logs), f"the log has the change: {change}", 5.0
            )
            await answers.more(50)
    assert answers.counts.keys() == {200}


async def test_an_invalid_edit_is_logged_and_ignored(gateway: GatewayParts) -> None:
    """A manifest is edited under load."""
    manifests = gateway.folder / "m" / "all.yaml"
    with capture_logs() as logs:
        async with load([gateway.url("main")]) as answers:
            manifests.write_text(manifests.read_text().replace("targetPortNumber: 8000", "targetPortNumber: eight"))
            await until(lambda: any(entry["event"] == "source.invalid" for entry in logs), "the error is logged")
            await answers.more(50)
    assert answers.counts.keys() == {200}
    assert any("targetPortNumber" in json.dumps(entry) for entry in logs)
