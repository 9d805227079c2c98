"""Model servers that die, leave and come back, and edits, while requests are on their way, through a real Envoy."""

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


async def ask(gateway: GatewayParts, behave: str = "") -> httpx.Response:
    return await gateway.client.post(gateway.url("main"), content=BODY, headers={"x-behave": behave})


async def waiting_requests(gateway: GatewayParts, count: int) -> "list[asyncio.Task[httpx.Response]]":
    """Requests of which every server has some, and none has begun to answer."""
    asked = [asyncio.create_task(ask(gateway, "wait")) for _ in range(count)]
    await until(lambda: sum(len(each.received) for each in gateway.all_upstreams) == count, "requests are on the way")
    return asked


async def test_requests_that_a_dying_server_had_not_begun_to_answer_are_answered_by_others(
    gateway: GatewayParts,
) -> None:
    asked = await waiting_requests(gateway, 12)
    dying, *others = gateway.all_upstreams
    assert len(dying.received) == 4
    for each in others:
        each.released.set()
    dying.die()
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["served_by"] for answer in answers} == {"b", "c"}


async def test_an_answer_that_has_begun_ends_with_its_server_and_is_not_asked_for_again(gateway: GatewayParts) -> None:
    async with gateway.client.stream("POST", gateway.url("main"), content=BODY, headers={"x-behave": "hold"}) as stream:
        [serving] = [each for each in gateway.all_upstreams if each.received]
        serving.die()
        with pytest.raises(httpx.HTTPError):
            await stream.aread()
    assert sum(len(each.received) for each in gateway.all_upstreams) == 1


async def test_a_request_that_its_servers_cut_reaches_two_of_them(gateway: GatewayParts) -> None:
    """One request that ends each server's process must not end all of them."""
    answer = await ask(gateway, "reset")
    assert answer.status_code == 503
    assert sorted(len(each.received) for each in gateway.all_upstreams) == [0, 1, 1]


async def test_a_server_whose_machine_is_gone_holds_a_request_up_for_no_longer_than_connecting_may_take(
    gateway: GatewayParts,
) -> None:
    with silent_port() as port:
        gone = Upstream("gone", port=port)
        gateway.upstreams = {"main": [*gateway.upstreams["main"], gone]}
        gateway.write_endpoints()
        await until(lambda: len(list(gateway.picker.endpoint_states())) == 4, "the picker has not followed")
        asked = await asyncio.gather(*(_timed(ask(gateway)) for _ in range(12)))
        assert {answer.status_code for answer, _ in asked} == {200}
        assert all(took_s < 5.0 for _, took_s in asked)
        assert any(took_s > 0.4 for _, took_s in asked), "none was sent there first"


async def _timed(asking: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    began_s = time.monotonic()
    return await asking, time.monotonic() - began_s


@contextmanager
def silent_port() -> Generator[int]:
    """A port that takes no more connections and refuses none either, as a machine that is gone: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]


async def test_under_load_a_killed_server_costs_no_client_an_error_and_gets_requests_again_once_it_is_back(
    gateway: GatewayParts,
) -> None:
    async with load([gateway.url("main")]) as answers:
        gone = gateway.all_upstreams[0]
        gone.die()
        await until(
            lambda: any(each.refuses_connections for each in gateway.picker.endpoint_states()), "the scrapes see it"
        )
        since = answers.mark()
        await answers.more(100)
        assert answers.servers_since(since) <= {"b", "c"}
        async with Upstream("a", port=gone.port):
            await until(lambda: "a" in answers.servers_since(since), "the server that is back is used")
    assert answers.counts.keys() == {200}


async def test_under_load_a_server_that_leaves_the_endpoints_file_gets_no_more_requests_and_ends_its_streams_in_peace(
    gateway: GatewayParts,
) -> None:
    async with gateway.client.stream("POST", gateway.url("main"), content=BODY, headers={"x-behave": "hold"}) as stream:
        [leaving] = [each for each in gateway.all_upstreams if each.received]
        async with load([gateway.url("main")]) as answers:
            gateway.write_endpoints(leaving)
            await until(lambda: len(list(gateway.picker.endpoint_states())) == 2, "the picker has not followed")
            since = answers.mark() + 8
            await answers.more(100)
            assert leaving.name not in answers.servers_since(since)
        leaving.released.set()
        text = (await stream.aread()).decode()
    assert text.count("data: ") == 3
    assert answers.counts.keys() == {200}


async def test_under_load_an_edited_strategy_takes_effect_and_is_told_in_the_log(gateway: GatewayParts) -> None:
    with capture_logs() as logs:
        async with load([gateway.url("main")]) as answers:
            gateway.write(pool("main", strategy="PREFIX_CACHE"), *gateway.manifests[1:])
            wanted = f"InferencePool {V1ALPHA2}/default/main: routing-strategy DEFAULT -> PREFIX_CACHE"
            await until(lambda: any(each.get("change") == wanted for each in logs), f"no line says {wanted}", 5.0)
            await answers.more(50)
    assert answers.counts.keys() == {200}


async def test_under_load_a_wrong_edit_is_told_and_changes_nothing(gateway: GatewayParts) -> None:
    manifests = gateway.folder / "m" / "all.yaml"
    with capture_logs() as logs:
        async with load([gateway.url("main")]) as answers:
            manifests.write_text(manifests.read_text().replace("targetPortNumber: 8000", "targetPortNumber: eight"))
            await until(lambda: any(each["event"] == "source.invalid" for each in logs), "the mistake is not told")
            await answers.more(50)
    assert answers.counts.keys() == {200}
    assert any("targetPortNumber" in json.dumps(each) for each in logs)
