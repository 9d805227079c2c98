"""A small API server on loopback: lists and watches of a few kinds, with faults that a test injects."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster, Context, User

Json = dict[str, Any]


def thing(name: str, version: int, **spec: Any) -> Json:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Thing",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": str(version)},
        "spec": spec,
    }


THINGS = "/apis/example.com/v1/things"


@dataclass(slots=True)
class ApiServer:
    """The server of one kind. `objects` is the content of a list; `events` go to the open watch, or to the next one."""

    objects: list[Json] = field(default_factory=list[Json])
    version: int = 1
    events: "asyncio.Queue[Json | None]" = field(default_factory=lambda: asyncio.Queue())
    """None ends the watch, and so does an ERROR."""
    requested: list[str] = field(default_factory=list[str])
    """`list`, or `watch VERSION`."""
    raw: bytes | None = None
    """Sent in place of the next watch's events, which then ends."""
    refuse: Callable[[str], web.Response | None] = field(default=lambda _: None)
    """Replaces the server's response to a request."""

    def send_event(self, event: str, object_: Json) -> None:
        self.events.put_nowait({"type": event, "object": object_})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        watching = "watch" in request.query
        requested = f"watch {request.query.get('resourceVersion')}" if watching else "list"
        self.requested.append(requested)
        if (refusal := self.refuse(requested)) is not None:
            return refusal
        if not watching:
            listing = {"kind": "ThingList", "metadata": {"resourceVersion": str(self.version)}, "items": self.objects}
            return web.json_response(listing)
        assert request.query["allowWatchBookmarks"] == "true"
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        if self.raw is not None:
            raw, self.raw = self.raw, None
            await answer.write(raw)
            return answer
        while (event := await self.events.get()) is not None:
            await answer.write(json.dumps(event).encode() + b"\n")
            if event["type"] == "ERROR":
                break
        return answer


@asynccontextmanager
async def api_server() -> AsyncIterator[tuple[ApiServer, SingleConfig]]:
    """The server of the things, and a client's configuration for it."""
    async with api_servers(THINGS) as ([server], config):
        yield server, config


@asynccontextmanager
async def api_servers(
    *paths: str, patched: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
) -> AsyncIterator[tuple[list[ApiServer], SingleConfig]]:
    """A server per path, and a client's configuration for them. `patched` handles writes of statuses."""
    servers = [ApiServer() for _ in paths]
    app = web.Application()
    for path, server in zip(paths, servers, strict=True):
        app.router.add_get(path, server.handle)
    if patched is not None:
        app.router.add_patch("/apis/{group}/{version}/namespaces/{namespace}/{kind}/{name}/status", patched)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [address] = runner.addresses
    cluster = Cluster(server=f"http://127.0.0.1:{address[1]}")
    yield servers, SingleConfig("test", Context(cluster="test"), cluster, User())
    await runner.cleanup()
