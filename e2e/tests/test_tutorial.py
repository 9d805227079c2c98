"""The tutorial's gateway as it stands: its manifests, vLLM mocks as processes, both ports."""

import asyncio
from collections import Counter

import httpx
import pytest
from e2e.local_gateway import MODEL, LocalGateway, MockFleet
from waiting import eventually, until

CHAT = {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}


async def ask(client: httpx.AsyncClient, url: str) -> int | str:
    """The status, or the name of what went wrong."""
    try:
        return (await client.post(f"{url}/v1/chat/completions", json=CHAT)).status_code
    except httpx.HTTPError as error:
        return type(error).__name__


@pytest.mark.timeout(120)
async def test_both_ports_answer_and_a_killed_server_costs_the_picked_one_nothing() -> None:
    async with LocalGateway([MockFleet(replicas=3)]) as gateway, httpx.AsyncClient(timeout=30.0) as client:
        assert [await ask(client, url) for url in (gateway.plain_url, gateway.picked_url)] == [200, 200]
        statuses: list[int | str] = []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                statuses.append(await ask(client, gateway.picked_url))

        clients = [asyncio.create_task(load()) for _ in range(6)]
        await until(lambda: len(statuses) >= 12, "no load", 30.0)
        gateway.mocks[0].process.kill()
        await until(lambda: len(statuses) >= 60, "no load after the kill", 30.0)
        await _edit_is_followed(client, gateway)
        stop.set()
        await asyncio.gather(*clients)
    assert Counter(statuses).keys() == {200}


async def _edit_is_followed(client: httpx.AsyncClient, gateway: LocalGateway) -> None:
    """By the picker's own word, with no restart."""
    gateway.edit("inference-pool-strategy.yaml", '"DEFAULT"', '"ROUND_ROBIN"')
    log = gateway.folder / "gateway.log"
    await until(lambda: "routing-strategy DEFAULT -> ROUND_ROBIN" in log.read_text(), "the edit is not followed")
    gateway.write_endpoints(without=[0])

    async def gone() -> bool:
        states = (await client.get(f"{gateway.admin_url}/endpoints")).json()
        return len(states) == 2

    await eventually(gone, "the server that left is still known")
