"""A mock on a loopback port, in the test's own event loop."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import httpx
from vllm_mock.api.api_server import Door
from vllm_mock.api.running import Listener, listen, serving
from vllm_mock.serve import build_door
from vllm_mock.settings import ServeSettings
from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.verify.http import until

FAST = {"served_model_name": ["/model/qwen"], "time_scale": 100.0, "tokenizer": "approximate"}


@dataclass(frozen=True, slots=True)
class MockServer:
    client: httpx.AsyncClient
    door: Door
    url: str

    async def running(self, count: int) -> None:
        """Until as many requests are in the engine."""
        await self.until(lambda: self.door.replica.engine.engine.live_requests == count)

    async def until(self, true: Callable[[], bool]) -> None:
        await until(true)

    async def complete(self, **body: object) -> httpx.Response:
        return await self.client.post("/v1/completions", json=body)

    async def chat(self, **body: object) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=body)

    async def metric(self, line: str) -> float:
        """The value of the sample that begins with `line`; 0 where there is none."""
        page = (await self.client.get("/metrics")).text
        found = [each for each in page.splitlines() if each.startswith(line)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


@contextlib.asynccontextmanager
async def mock_server(**settings: object) -> AsyncGenerator[MockServer]:
    door = build_door(ServeSettings(**{**FAST, **settings}), ApproximateTokenizer())
    listener = Listener(door, listen("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.port}"
    async with serving([listener]), httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield MockServer(client, door, url)


def events(text: str) -> list[str]:
    """The data of a stream's events."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
