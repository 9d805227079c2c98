"""The pages `/pools` and `/decisions` of the admin address."""

from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from picker.bounded_text import shorten
from picker.observability.admin import in_pieces
from picker.observability.decisions import newest
from picker.observability.piecewise import MAX_ANSWER_BYTES, batches, json_list
from picker.observability.pool_states import PoolState
from picker.observability.recent_decisions import RecordedDecision

SHOWN = 10
"""Decisions that `/decisions` shows by default."""


def pages(
    pools: Callable[[], Iterable[PoolState]],
    decisions: Callable[[], Iterable[RecordedDecision]],
    clock: Callable[[], float],
) -> list[Route]:
    """Returns the routes of the pages. `decisions`: newest first. `clock`: the director's timer."""

    async def show_pools(_request: Request) -> Response:
        return in_pieces(_pools(pools()))

    async def show_decisions(request: Request) -> Response:
        query = request.query_params
        limit = query.get("limit", str(SHOWN))
        if not limit.isdecimal():
            return PlainTextResponse(f"limit: found {shorten(limit)!r}; allowed is a number\n", 400)
        found = newest(
            list(decisions()), clock(), limit=int(limit[:9]), request_id=query.get("request_id"), pool=query.get("pool")
        )
        return in_pieces(json_list(map(msgspec.json.encode, found)))

    return [Route("/pools", show_pools), Route("/decisions", show_decisions)]


def _pools(states: Iterable[PoolState]) -> Iterator[bytes]:
    """Yields the pools as JSON, with their endpoints in pieces. Endpoints beyond `MAX_ANSWER_BYTES` are omitted."""
    written = 0
    separator = b"["
    for state in states:
        yield separator + b"\n" + msgspec.json.encode(replace(state, endpoints=())).removesuffix(b"]}")
        separator, comma = b",", b""
        for piece in batches(state.endpoints):
            written += len(piece)
            if written > MAX_ANSWER_BYTES:
                break
            yield comma + piece
            comma = b",\n"
        yield b"]}"
    yield b"[]\n" if separator == b"[" else b"\n]\n"
