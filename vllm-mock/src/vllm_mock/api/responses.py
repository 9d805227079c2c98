"""Responses as JSON or as a stream of events, and detection of disconnected clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vllm_mock.generation.errors import ApiError

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


def json_response(body: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    return json_response(error.body, error.status)


def event(body: msgspec.Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(body) + b"\n\n"


class EventStream(Response):
    """A response of server-sent events. An ApiError of `events` becomes an event: the status is sent already."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None], cut_after: int | None = None) -> None:
        """`close` is called at the end in any case; it must end `events` if the client disconnects.

        `cut_after` breaks the connection after that many events (an injected fault). None means never.
        """
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
            async for data in self._with_error_event():
                await send({"type": "http.response.body", "body": data, "more_body": True})
                sent += 1
                if sent == self._cut_after:
                    # uvicorn closes the connection of a response without a final body message.
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watch.cancel()
            self._close()

    async def _with_error_event(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._events:
                yield data
        except ApiError as error:
            yield event(error.body)
            yield DONE


async def when_disconnected(receive: Receive, close: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    close()


async def while_connected(receive: Receive, work: Awaitable[None], close: Callable[[], None]) -> None:
    """Awaits `work`. `close` is called if the client disconnects, and at the end; it must end `work`."""
    watch = asyncio.create_task(when_disconnected(receive, close))
    try:
        await work
    finally:
        watch.cancel()
        close()
