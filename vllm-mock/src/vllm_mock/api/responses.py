"""Sending answers: JSON, or events as they come; and watching whether the client is still there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vllm_mock.generation.errors import Refused

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


def json_response(body: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, media_type="application/json")


def refusal(refused: Refused) -> Response:
    return json_response(refused.body, refused.status)


def event(body: msgspec.Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(body) + b"\n\n"


class EventStream(Response):
    """Events until `events` ends. A Refused that it raises becomes an event, as the status is long sent."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None], cut_after: int | None = None) -> None:
        """`close` is called in any case, and is what ends `events` when the client goes away. `cut_after`: break the
        connection after as many events (a fault for tests)."""
        super().__init__()
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._cut_after = cut_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        watch = asyncio.create_task(when_disconnected(receive, self._close))
        try:
            sent = 0
            async for data in self._told():
                await send({"type": "http.response.body", "body": data, "more_body": True})
                sent += 1
                if sent == self._cut_after:
                    # An answer without an end makes the server break the connection.
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watch.cancel()
            self._close()

    async def _told(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._events:
                yield data
        except Refused as refused:
            yield event(refused.body)
            yield DONE


async def when_disconnected(receive: Receive, close: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    close()


async def while_connected(receive: Receive, work: Awaitable[None], close: Callable[[], None]) -> None:
    """Await `work`, which ends early when the client goes away."""
    watch = asyncio.create_task(when_disconnected(receive, close))
    try:
        await work
    finally:
        watch.cancel()
        close()
