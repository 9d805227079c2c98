"""The HTTP pages of the admin address, for operators and tools, and of the metrics address, for Prometheus."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.logs import LEVELS, set_level
from picker.observability.http_server import BoundedBodies
from picker.observability.piecewise import Turns, batches, json_list, metrics_page

BODY_TIMEOUT_S = 5.0
"""For a request's body, which fits in one TCP segment. Judgement."""


class EndpointState(msgspec.Struct, frozen=True):
    """An endpoint as `/endpoints` shows it."""

    pool: str
    address: str
    server: str
    in_flight_requests: int
    in_flight_prefill_tokens: int
    in_flight_decode_tokens: int
    peers_in_flight_requests: int
    """Of the other replicas of the picker. They are no part of `in_flight_requests`."""
    running: int | None
    queue_depth: int | None
    kv_cache_usage: float | None
    metrics_age_s: float | None
    scrape_interval_s: float | None
    """Present time between two scrapes."""
    page_s: float | None
    """The server's time for a page of metrics, estimated."""
    refuses_connections: bool
    reported_blocks: int | None
    """Blocks of its prefix cache that its KV events report; None without KV events."""
    fully_reported: bool
    """Whether `reported_blocks` are all blocks of its prefix cache."""


def endpoint_state(pool: str, endpoint: Endpoint, now_s: float, prefixes: PrefixIndex) -> EndpointState:
    metrics = endpoint.metrics
    return EndpointState(
        pool=pool,
        address=endpoint.address,
        server=endpoint.server,
        in_flight_requests=endpoint.in_flight.requests - endpoint.peers_in_flight.requests,
        in_flight_prefill_tokens=endpoint.in_flight.prefill_tokens - endpoint.peers_in_flight.prefill_tokens,
        in_flight_decode_tokens=endpoint.in_flight.decode_tokens - endpoint.peers_in_flight.decode_tokens,
        peers_in_flight_requests=endpoint.peers_in_flight.requests,
        running=metrics.running if metrics else None,
        queue_depth=metrics.queue_depth if metrics else None,
        kv_cache_usage=metrics.kv_cache_usage if metrics else None,
        metrics_age_s=_rounded(now_s - metrics.scraped_at_s, 3) if metrics else None,
        scrape_interval_s=_rounded(endpoint.scrape_interval_s, 3),
        page_s=_rounded(endpoint.page_s, 4),
        refuses_connections=endpoint.unreachable_since_s is not None,
        reported_blocks=prefixes.reported_blocks(endpoint),
        fully_reported=prefixes.fully_reported(endpoint),
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return round(value, digits) if value is not None else None


def metrics_app(is_ready: Callable[[], bool], registry: CollectorRegistry) -> Starlette:
    """Returns the app of the metrics address, which the whole cluster may read: `GET /metrics` and `/healthz`."""
    return _app(_public_pages(is_ready, registry))


def admin_app(
    is_ready: Callable[[], bool],
    endpoints: Callable[[], Iterable[EndpointState]],
    registry: CollectorRegistry = REGISTRY,
    pages: Sequence[Route] = (),
) -> Starlette:
    """Returns the app of the admin address: the pages of `metrics_app`, `GET /endpoints`, `PUT /log-level` with the
    level as its body, and `pages`."""

    async def show_endpoints(_request: Request) -> Response:
        return in_pieces(json_list(batches(endpoints())))

    async def log_level(request: Request) -> Response:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                found = (await request.body())[:20].decode(errors="replace").strip()
        except TimeoutError:
            text = f"the request body did not arrive within {BODY_TIMEOUT_S:g} seconds\n"
            return PlainTextResponse(text, 408, {"connection": "close"})
        for level in LEVELS:
            if level == found:
                set_level(level)
                return PlainTextResponse(f"log level is {level}\n")
        return PlainTextResponse(f"found {found!r}; allowed are {', '.join(LEVELS)}\n", 400)

    own = (Route("/endpoints", show_endpoints), Route("/log-level", log_level, methods=["PUT"]))
    return _app([*_public_pages(is_ready, registry), *own, *pages])


def in_pieces(pieces: Iterable[bytes], content_type: str = "application/json") -> Response:
    """Returns a response whose body is made and sent in pieces."""
    return StreamingResponse(_TURNS.pieces(pieces), headers={"content-type": content_type})


_TURNS = Turns()


def _public_pages(is_ready: Callable[[], bool], registry: CollectorRegistry) -> list[Route]:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n") if is_ready() else PlainTextResponse("not ready\n", 503)

    async def metrics(request: Request) -> Response:
        pieces, content_type = metrics_page(registry, request.headers.get("accept", ""))
        return in_pieces(pieces, content_type)

    return [Route("/healthz", healthz), Route("/metrics", metrics)]


def _app(routes: Sequence[Route]) -> Starlette:
    return Starlette(routes=routes, middleware=[Middleware(BoundedBodies)])
