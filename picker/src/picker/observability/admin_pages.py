"""What the admin address shows of the picker's doings: `/pools` and `/decisions`."""

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
from picker.observability.request_record import Course, TurnedAway

SHOWN = 10
"""Decisions, when nobody says how many."""


def pages(
    pools: Callable[[], Iterable[PoolState]],
    decisions: Callable[[], Iterable[Course | TurnedAway]],
    clock: Callable[[], float],
) -> list[Route]:
    """`decisions`: the newest first; `clock`: theirs."""

    async def show_pools(_request: Request) -> Response:
        return in_pieces(_pools(pools()))

    async def show_decisions(request: Request) -> Response:
        asked = request.query_params
        limit = asked.get("limit", str(SHOWN))
        if not limit.isdecimal():
            return PlainTextResponse(f"limit: found {shorten(limit)!r}; allowed is a number\n", 400)
        found = newest(
            list(decisions()), clock(), limit=int(limit[:9]), request_id=asked.get("request_id"), pool=asked.get("pool")
        )
        return in_pieces(json_list(map(msgspec.json.encode, found)))

    return [Route("/pools", show_pools), Route("/decisions", show_decisions)]


def _pools(states: Iterable[PoolState]) -> Iterator[bytes]:
    """The pools as JSON, their endpoints in pieces; endpoints beyond `MAX_ANSWER_BYTES` are left out."""
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
