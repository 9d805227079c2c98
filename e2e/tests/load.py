"""A few clients that ask over and over, and remember every answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx


@dataclass
class Answers:
    statuses: list[int | str] = field(default_factory=list)
    """Of every request; of one that failed, the error's name."""
    servers: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[int | str]:
        return Counter(self.statuses)

    async def more(self, count: int) -> None:
        """Until `count` more requests have been answered."""
        wanted = len(self.statuses) + count
        async with asyncio.timeout(20):
            while len(self.statuses) < wanted:  # noqa: ASYNC110 - the clients' own work
                await asyncio.sleep(0.005)

    def mark(self) -> int:
        return len(self.servers)

    def servers_since(self, mark: int) -> set[str]:
        return set(self.servers[mark:])


@asynccontextmanager
async def load(urls: Sequence[str], clients: int = 8) -> AsyncIterator[Answers]:
    """Requests to `urls` in turn, from when the first has been answered."""
    answers = Answers()
    stop = asyncio.Event()

    async def ask(client: httpx.AsyncClient, number: int) -> None:
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
        tasks = [asyncio.create_task(ask(client, number)) for number in range(clients)]
        await answers.more(clients)
        try:
            yield answers
        finally:
            stop.set()
            await asyncio.gather(*tasks)
