"""A small OpenAI-compatible server for tests. It streams the requested tokens, and fails on demand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class ModelServer:
    """The server's behaviour, which tests may change at any time, and the requests it received."""

    token_gap_s: float = 0.0
    """Delay before every token."""
    reject_status: int | None = None
    """Status of an error response to every request; None: requests are served."""
    cut_after: int | None = None
    """Tokens after which the connection is aborted."""
    end_after: int | None = None
    """Tokens after which the stream ends without its last events."""
    error_after: int | None = None
    """Tokens after which an error event is sent."""
    usage: bool = True
    close: bool = False
    """Close the connection after every response."""
    metrics: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    running: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Notified when `running` changes."""
    most_running: int = 0
    url: str = ""

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        self.connections.add(request.transport.get_extra_info("peername") if request.transport else None)
        if self.reject_status is not None:
            error = {"message": "The server is overloaded.", "type": "ServiceUnavailable", "param": None}
            return web.json_response({"error": error}, status=self.reject_status)
        await self._add_running(1)
        try:
            return await self._stream(request, self.bodies[-1])
        finally:
            await self._add_running(-1)

    async def until_running(self, count: int) -> None:
        """Waits until `count` requests are in flight."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.running == count)

    async def _add_running(self, change: int) -> None:
        self.running += change
        self.most_running = max(self.most_running, self.running)
        async with self.changed:
            self.changed.notify_all()

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if self.close:
            answer.force_close()
        await answer.prepare(request)
        chat = "messages" in body
        count = body["max_completion_tokens" if chat else "max_tokens"]
        for index in range(count):
            await asyncio.sleep(self.token_gap_s)
            if index == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return answer
            if index == self.end_after:
                return answer
            if index == self.error_after:
                await answer.write(_event({"error": {"message": "EngineCore died.", "code": 500}}))
                await answer.write(b"data: [DONE]\n\n")
                return answer
            text = {"delta": {"content": f" t{index}"}} if chat else {"text": f" t{index}"}
            await answer.write(_event({"id": "x", "choices": [{"index": 0, **text, "finish_reason": None}]}))
        if self.usage:
            prompt = json.dumps(body["messages"]) if chat else body["prompt"]
            usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": count}
            await answer.write(_event({"id": "x", "choices": [], "usage": usage}))
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def show_models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "/model/qwen", "object": "model"}]})


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    """Runs a server on a free port of the loopback address."""
    model = ModelServer()
    app = web.Application()
    app.router.add_post("/v1/completions", model.generate)
    app.router.add_post("/v1/chat/completions", model.generate)
    app.router.add_get("/metrics", model.show_metrics)
    app.router.add_get("/v1/models", model.show_models)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    model.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield model
    finally:
        await runner.cleanup()


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
