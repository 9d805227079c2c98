"""Of most answers the picker hears nothing but the end; it sees how they begin where that is of use."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, metric, pool, route, to_pool
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"model": "m", "prompt": "hi"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[GatewayParts]:
    manifests = [pool("main"), route("main", "main", {"backendRefs": [to_pool("main")]})]
    async with GatewayParts({"main": [Upstream("a")]}, ["main"], manifests) as parts:
        yield parts


async def seen(gateway: GatewayParts) -> float:
    """Answers whose beginning was timed."""
    return await metric(gateway, "inference_gateway_time_to_first_byte_seconds_count")


async def ask(gateway: GatewayParts, times: int, behave: str = "") -> None:
    for _ in range(times):
        await gateway.client.post(gateway.url("main"), json=BODY, headers={"x-behave": behave})
    await gateway.nothing_in_flight()


async def test_a_request_is_in_flight_until_its_unseen_answer_has_ended(gateway: GatewayParts) -> None:
    """An event stream that has begun, and goes on."""
    [upstream] = gateway.all_upstreams
    before = await seen(gateway)
    for _ in range(10):
        upstream.reset()
        async with gateway.client.stream(
            "POST", gateway.url("main"), json=BODY, headers={"x-behave": "hold"}
        ) as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            assert gateway.picker.tracker.total.requests == 1
            upstream.released.set()
            async for _ in pieces:
                pass
        await gateway.nothing_in_flight()
    assert await seen(gateway) < before + 10


async def test_a_client_that_leaves_an_unseen_answer_is_no_longer_in_flight(gateway: GatewayParts) -> None:
    [upstream] = gateway.all_upstreams
    for _ in range(5):
        upstream.reset()
        async with gateway.client.stream(
            "POST", gateway.url("main"), json=BODY, headers={"x-behave": "hold"}
        ) as answer:
            await anext(answer.aiter_raw())
            assert gateway.picker.tracker.total.requests == 1
        await gateway.nothing_in_flight()


async def test_after_a_failure_every_answer_is_seen(gateway: GatewayParts) -> None:
    """The first of them is among the few that are seen anyhow; here it comes within some tens."""
    before = await seen(gateway)
    await ask(gateway, 16)
    assert await seen(gateway) < before + 16
    errors = "inference_objective_request_error_total"
    for _ in range(300):
        await ask(gateway, 1, "fail")
        if await metric(gateway, errors):
            break
    else:
        pytest.fail("no failure was ever seen")
    before = await seen(gateway)
    await ask(gateway, 16)
    assert await seen(gateway) == before + 16
