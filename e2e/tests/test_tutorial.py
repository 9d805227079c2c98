"""The tutorial's gateway: its manifests, with vLLM mocks as processes, and both ports."""

import asyncio
from collections import Counter

import httpx
import pytest
from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from waiting import eventually, until

CHAT = {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}


async def send(client: httpx.AsyncClient, url: str) -> int | str:
    """Returns the status, or the name of the error."""
    try:
        return (await client.post(f"{url}/v1/chat/completions", json=CHAT)).status_code
    except httpx.HTTPError as error:
        return type(error).__name__


@pytest.mark.timeout(120)
async def test_both_ports_serve_and_a_killed_server_fails_no_picked_request() -> None:
    """Edits of the strategy and of the endpoints take effect under the same load."""
    async with LocalGateway([MockFleet(replicas=3)]) as gateway, httpx.AsyncClient(timeout=30.0) as client:
        assert [await send(client, url) for url in (gateway.plain_url, gateway.picked_url)] == [200, 200]
        statuses: list[int | str] = []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                statuses.append(await send(client, gateway.picked_url))

        clients = [asyncio.create_task(load()) for _ in range(6)]
        await until(lambda: len(statuses) >= 12, "requests are served", 30.0)
        gateway.mocks[0].process.kill()
        await until(lambda: len(statuses) >= 60, "requests are served after the kill", 30.0)
        await _edit_is_followed(client, gateway)
        stop.set()
        await asyncio.gather(*clients)
    assert Counter(statuses).keys() == {200}


async def _edit_is_followed(client: httpx.AsyncClient, gateway: LocalGateway) -> None:
    """Edits strategy and endpoints, and waits until the picker has logged or reports the change."""
    gateway.edit("inference-pool-strategy.yaml", '"DEFAULT"', '"ROUND_ROBIN"')
    log = gateway.folder / "gateway.log"
    await until(lambda: "routing-strategy DEFAULT -> ROUND_ROBIN" in log.read_text(), "the new strategy is logged")
    gateway.write_endpoints(without=[0])

    async def removed() -> bool:
        states = (await client.get(f"{gateway.admin_url}/endpoints")).json()
        return len(states) == 2

    await eventually(removed, "the removed server is not reported")
