"""The `http_*` metric families, with the names, labels and buckets of vLLM's prometheus_fastapi_instrumentator."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NOT_COUNTED = frozenset({"/metrics", "/health", "/load", "/ping", "/version"})
_FINE_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60
)  # fmt: skip
_COARSE_S = (0.1, 0.5, 1)
HANDLER = "vllm_mock.handler"
"""Key of the ASGI scope under which a route stores its path template."""
UNKNOWN = "none"
"""Handler label of requests that match no route, by path or by method."""


class HttpMetrics:
    """ASGI middleware that counts requests by route."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, admin_prefix: str) -> None:
        """Paths that begin with `admin_prefix` are the mock's own and not counted."""
        self._app = app
        self._admin_prefix = admin_prefix
        self._requests = Counter(
            "http_requests_total",
            "Total number of requests by method, status and handler.",
            ("method", "status", "handler"),
            registry=registry,
        )
        self._request_bytes = Summary(
            "http_request_size_bytes", "Content length of requests by handler.", ("handler",), registry=registry
        )
        self._response_bytes = Summary(
            "http_response_size_bytes", "Content length of responses by handler.", ("handler",), registry=registry
        )
        self._fine_s = Histogram(
            "http_request_duration_highr_seconds", "Latency, many buckets.", buckets=_FINE_S, registry=registry
        )
        self._coarse_s = Histogram(
            "http_request_duration_seconds",
            "Latency by handler, few buckets.",
            ("method", "handler"),
            buckets=_COARSE_S,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _NOT_COUNTED or scope["path"].startswith(self._admin_prefix):
            await self._app(scope, receive, send)
            return
        # A request that ends without a response counts as a server error.
        status, size = 500, 0

        async def observed(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                size = int(Headers(raw=message["headers"]).get("content-length", 0))
            await send(message)

        started_s = time.perf_counter()
        try:
            await self._app(scope, receive, observed)
        finally:
            self._count(scope, status, size, time.perf_counter() - started_s)

    def _count(self, scope: Scope, status: int, size: int, duration_s: float) -> None:
        handler: str = scope.get(HANDLER, UNKNOWN)
        method: str = scope["method"]
        self._requests.labels(method, f"{status // 100}xx", handler).inc()
        self._request_bytes.labels(handler).observe(int(Headers(scope=scope).get("content-length", 0)))
        self._response_bytes.labels(handler).observe(size)
        self._fine_s.observe(duration_s)
        self._coarse_s.labels(method, handler).observe(duration_s)
