"""What the admin address shows of the picker's doings: `/pools` and `/decisions`."""

from collections.abc import Callable, Iterable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from picker.observability.course import Course, TurnedAway
from picker.observability.decisions import newest
from picker.observability.pool_states import PoolState

SHOWN = 10
"""Decisions, when nobody says how many."""


def pages(
    pools: Callable[[], Sequence[PoolState]],
    decisions: Callable[[], Iterable[Course | TurnedAway]],
    clock: Callable[[], float],
) -> list[Route]:
    """`decisions`: the newest first; `clock`: theirs."""

    async def show_pools(_request: Request) -> Response:
        return _json(pools())

    async def show_decisions(request: Request) -> Response:
        asked = request.query_params
        limit = asked.get("limit", str(SHOWN))
        if not limit.isdecimal():
            return PlainTextResponse(f"limit: found {limit!r}; allowed is a number\n", 400)
        found = newest(
            decisions(), clock(), limit=int(limit[:9]), request_id=asked.get("request_id"), pool=asked.get("pool")
        )
        return _json(found)

    return [Route("/pools", show_pools), Route("/decisions", show_decisions)]


def _json(value: object) -> Response:
    body = msgspec.json.format(msgspec.json.encode(value), indent=2)
    return Response(body + b"\n", media_type="application/json")
