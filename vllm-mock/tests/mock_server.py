"""A mock on a loopback port in the test's event loop."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import httpx
from vllm_mock.api.api_server import ApiServer
from vllm_mock.api.running import Listener, listen, serving
from vllm_mock.serve import build_api_server
from vllm_mock.settings import ServeSettings
from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.verify.http import until

FAST = {"served_model_name": ["/model/qwen"], "time_scale": 100.0, "tokenizer": "approximate"}


@dataclass(frozen=True, slots=True)
class MockServer:
    client: httpx.AsyncClient
    api_server: ApiServer
    url: str

    async def running(self, count: int) -> None:
        """Waits until `count` requests are in the engine."""
        await self.until(lambda: self.api_server.replica.engine.engine.live_requests == count)

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition)

    async def complete(self, **body: object) -> httpx.Response:
        return await self.client.post("/v1/completions", json=body)

    async def chat(self, **body: object) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=body)

    async def metric(self, line: str) -> float:
        """The value of the sample that begins with `line`, or 0 if there is none."""
        page = (await self.client.get("/metrics")).text
        found = [sample for sample in page.splitlines() if sample.startswith(line)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


@contextlib.asynccontextmanager
async def mock_server(**settings: object) -> AsyncGenerator[MockServer]:
    api_server = build_api_server(ServeSettings(**{**FAST, **settings}), ApproximateTokenizer())
    listener = Listener(api_server, listen("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.port}"
    async with serving([listener]), httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield MockServer(client, api_server, url)


def events(text: str) -> list[str]:
    """The data of the events of a stream."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
