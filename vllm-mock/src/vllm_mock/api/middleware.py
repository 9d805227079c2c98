"""ASGI middleware for API keys and request ids."""

import hmac
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_mock.api.responses import json_response
from vllm_mock.api.schemas import Unauthorized


class ApiKeys:
    """Requires an API key on /v1. Other paths, such as /metrics, /health and /tokenize, need none, as in vLLM."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._accepted = [f"Bearer {key}".encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1") and scope["method"] != "OPTIONS":
            given = Headers(scope=scope).get("authorization", "").encode()
            if not any(hmac.compare_digest(given, accepted) for accepted in self._accepted):
                await json_response(Unauthorized("Unauthorized"), 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class RequestIds:
    """Sets X-Request-Id on every response: the request's, or a generated one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id") or uuid.uuid4().hex

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"])["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, named)
