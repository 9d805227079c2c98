"""Sampling of response headers: for most responses the picker sees only the end of the stream."""

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


async def sampled(gateway: GatewayParts) -> float:
    """Number of responses whose first byte was timed."""
    return await metric(gateway, "inference_gateway_time_to_first_byte_seconds_count")


async def send(gateway: GatewayParts, times: int, behave: str = "") -> None:
    for _ in range(times):
        await gateway.client.post(gateway.url("main"), json=BODY, headers={"x-behave": behave})
    await gateway.nothing_in_flight()


async def test_a_request_is_in_flight_until_its_unsampled_response_ends(gateway: GatewayParts) -> None:
    """The response is an event stream that has started."""
    [upstream] = gateway.all_upstreams
    before = await sampled(gateway)
    for _ in range(10):
        upstream.reset()
        async with gateway.client.stream(
            "POST", gateway.url("main"), json=BODY, headers={"x-behave": "hold"}
        ) as answer:
            chunks = answer.aiter_raw()
            await anext(chunks)
            assert gateway.picker.tracker.total.requests == 1
            upstream.released.set()
            async for _ in chunks:
                pass
        await gateway.nothing_in_flight()
    assert await sampled(gateway) < before + 10


async def test_a_disconnect_within_an_unsampled_response_ends_the_request(gateway: GatewayParts) -> None:
    [upstream] = gateway.all_upstreams
    for _ in range(5):
        upstream.reset()
        async with gateway.client.stream(
            "POST", gateway.url("main"), json=BODY, headers={"x-behave": "hold"}
        ) as answer:
            await anext(answer.aiter_raw())
            assert gateway.picker.tracker.total.requests == 1
        await gateway.nothing_in_flight()


async def test_after_a_failure_all_responses_are_sampled(gateway: GatewayParts) -> None:
    """The first failure has to be among the sampled responses. That takes some tens of requests here."""
    before = await sampled(gateway)
    await send(gateway, 16)
    assert await sampled(gateway) < before + 16
    errors = "inference_objective_request_error_total"
    for _ in range(300):
        await send(gateway, 1, "fail")
        if await metric(gateway, errors):
            break
    else:
        pytest.fail("no failure was sampled")
    before = await sampled(gateway)
    await send(gateway, 16)
    assert await sampled(gateway) == before + 16
