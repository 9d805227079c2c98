"""How often the picker scrapes vLLM mocks whose pages take different times, behind a real Envoy."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
import pytest
from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from waiting import eventually

PAGE_S = 0.02
SHARE, FOREIGN_SHARE = 0.01, 0.05
"""Shares of a server's time: of pages that the picker predicts, and of those with foreign requests."""


@asynccontextmanager
async def streams(client: httpx.AsyncClient, url: str, count: int) -> AsyncGenerator[None]:
    """Long responses from `url` in progress."""

    async def stream() -> None:
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 4000, "stream": True, "ignore_eos": True}
        async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            async for _ in answer.aiter_bytes():
                pass

    running = [asyncio.create_task(stream()) for _ in range(count)]
    yield
    for task in running:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.timeout(120)
async def test_a_long_page_is_scraped_rarely_until_it_shows_foreign_requests() -> None:
    """Both mocks have requests of the picker first, and then also requests from the plain port."""
    fleets = [MockFleet(1), MockFleet(1, arguments=(f"--metrics-delay-s={PAGE_S}",))]
    async with (
        LocalGateway(fleets) as gateway,
        httpx.AsyncClient(timeout=60.0) as client,
        AsyncExitStack() as stack,
    ):

        async def share_of_time(share: float, **least: int) -> bool:
            """Whether each server's interval follows from its page, at so large a share of its time."""
            states = (await client.get(f"{gateway.admin_url}/endpoints")).json()
            if not all((state[name] or 0) >= value for state in states for name, value in least.items()):
                return False
            expected = [min(1.0, max(0.2, state["page_s"] / share)) for state in states]
            if [state["scrape_interval_s"] for state in states] != pytest.approx(expected, abs=0.002 + 1e-4 / share):
                return False
            return max(state["page_s"] for state in states) >= PAGE_S

        await stack.enter_async_context(streams(client, gateway.picked_url, 6))
        await eventually(
            lambda: share_of_time(SHARE, in_flight_requests=1, running=1), "scrapes take a hundredth", 30.0
        )
        await stack.enter_async_context(streams(client, gateway.plain_url, 12))
        await eventually(lambda: share_of_time(FOREIGN_SHARE, running=5), "scrapes take a twentieth", 30.0)
