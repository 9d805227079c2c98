"""Clients that send requests in a loop and record every response."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx


@dataclass
class Answers:
    statuses: list[int | str] = field(default_factory=list)
    """Status of every request, or the name of its error."""
    servers: list[str] = field(default_factory=list)
    """Name of the server of every response with status 200."""

    @property
    def counts(self) -> Counter[int | str]:
        return Counter(self.statuses)

    async def more(self, count: int) -> None:
        """Waits until `count` more requests have completed. Raises TimeoutError after 20 seconds."""
        target = len(self.statuses) + count
        async with asyncio.timeout(20):
            while len(self.statuses) < target:  # noqa: ASYNC110 - the clients set no event
                await asyncio.sleep(0.005)

    def mark(self) -> int:
        """Position for `servers_since`."""
        return len(self.servers)

    def servers_since(self, mark: int) -> set[str]:
        return set(self.servers[mark:])


@asynccontextmanager
async def load(urls: Sequence[str], clients: int = 8) -> AsyncIterator[Answers]:
    """Sends requests until the block ends. Each client uses one of `urls`. Starts after one response per client."""
    answers = Answers()
    stop = asyncio.Event()

    async def send(client: httpx.AsyncClient, number: int) -> None:
        while not stop.is_set():
            try:
                answer = await client.post(urls[number % len(urls)], content=b'{"model": "m", "prompt": "hi"}')
            except httpx.HTTPError as error:
                answers.statuses.append(type(error).__name__)
                continue
            answers.statuses.append(answer.status_code)
            if answer.status_code == 200:
                answers.servers.append(answer.json().get("served_by", ""))

    async with httpx.AsyncClient(timeout=20.0) as client:
        tasks = [asyncio.create_task(send(client, number)) for number in range(clients)]
        await answers.more(clients)
        try:
            yield answers
        finally:
            stop.set()
            await asyncio.gather(*tasks)
