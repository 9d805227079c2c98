"""Kept decisions in the form that they are asked for in, made when somebody asks."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from heapq import nsmallest
from itertools import islice
from typing import Literal

import msgspec

from picker.observability.request_record import Course, Seen, TurnedAway

SHOWN_CANDIDATES = 100
"""Endpoints of one decision: more than a person compares, in some 25 KB."""


class Candidate(msgspec.Struct, frozen=True):
    """An endpoint as a decision saw it."""

    server: str
    address: str
    rank: int | None
    """1 for the best, in the order in which the proxy was to try them; None for those that it was not told of."""
    cost: float | None
    """By the pool's strategy, the lower the better. None where the request was turned away before costs were looked
    at."""
    cached_tokens: int | None
    in_flight_requests: int
    """Of this picker, before this request."""
    running: int | None
    queue_depth: int | None
    kv_cache_usage: float | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request went where it went, and what became of it."""

    request_id: str | None
    at: datetime
    pool: str
    strategy: str
    criticality: str
    model: str | None
    target_model: str | None
    path: str
    prompt_tokens: int
    cached_tokens: int = 0
    output_tokens: int = 0
    decision_s: float
    outcome: Literal["in flight", "ended", "turned away"]
    server: str | None = None
    address: str | None = None
    fell_back: bool = False
    """Whether another endpoint than the best one served the request."""
    status: int | None = None
    """Of the answer; None before it has begun."""
    reason: str | None = None
    """Of a request that was turned away."""
    detail: str | None = None
    first_byte_s: float | None = None
    """After the pick; None before the answer has begun."""
    duration_s: float | None = None
    """From the pick to the end of the answer; None while it is in flight."""
    candidates: Sequence[Candidate]


def newest(
    kept: Iterable[Course | TurnedAway], now_s: float, *, limit: int, request_id: str | None, pool: str | None
) -> Iterator[Decision]:
    """The newest first of those whose id begins with `request_id`, of `pool`; each made when it is asked for. `kept`:
    newest first; `now_s` by their clock."""
    matching = (each for each in kept if _matches(each, request_id, pool))
    wall_s = time.time()
    for each in islice(matching, limit):
        yield _decision(each, datetime.fromtimestamp(wall_s - now_s + each.begun_s, UTC))


def _matches(each: Course | TurnedAway, request_id: str | None, pool: str | None) -> bool:
    its_pool = each.tally.pool if isinstance(each, Course) else each.pool
    return (request_id is None or (each.request_id or "").startswith(request_id)) and pool in (None, its_pool)


def _decision(each: Course | TurnedAway, at: datetime) -> Decision:
    return _of_course(each, at) if isinstance(each, Course) else _of_turned_away(each, at)


def _of_course(course: Course, at: datetime) -> Decision:
    ranks = {address: rank for rank, address in enumerate(course.destination.split(","), 1)}
    return Decision(
        request_id=course.request_id,
        at=at,
        pool=course.tally.pool,
        strategy=course.tally.strategy,
        criticality=course.criticality,
        model=course.model,
        target_model=course.served_model or course.model,
        path=course.path,
        prompt_tokens=course.prompt_tokens,
        cached_tokens=course.cached_tokens,
        output_tokens=course.output_tokens,
        decision_s=course.decided_s - course.begun_s,
        outcome="in flight" if course.ended_s is None else "ended",
        server=course.endpoint.server,
        address=course.endpoint.address,
        fell_back=course.other is not None,
        status=course.status,
        first_byte_s=course.first_byte_s - course.begun_s if course.first_byte_s is not None else None,
        duration_s=course.ended_s - course.begun_s if course.ended_s is not None else None,
        candidates=_candidates(course.seen, ranks),
    )


def _of_turned_away(request: TurnedAway, at: datetime) -> Decision:
    return Decision(
        request_id=request.request_id,
        at=at,
        pool=request.pool,
        strategy=request.strategy,
        criticality=request.criticality,
        model=request.model,
        target_model=None,
        path=request.path,
        prompt_tokens=request.prompt_tokens,
        decision_s=request.decided_s - request.begun_s,
        outcome="turned away",
        status=request.rejection.status,
        reason=request.rejection.reason,
        detail=request.rejection.message,
        candidates=_candidates(request.seen, {}),
    )


def _candidates(seen: Seen | None, ranks: dict[str, int]) -> list[Candidate]:
    """The best first, then by cost; at most `SHOWN_CANDIDATES`."""
    if seen is None:
        return []
    nothing = [None] * len(seen.endpoints)
    rows = zip(seen.endpoints, seen.metrics, seen.requests, seen.cached or nothing, seen.costs or nothing, strict=True)
    ranked = ((ranks.get(row[0].address), row) for row in rows)
    best = nsmallest(SHOWN_CANDIDATES, ranked, key=lambda each: (each[0] or len(seen.endpoints) + 1, each[1][4] or 0.0))
    return [
        Candidate(
            server=endpoint.server,
            address=endpoint.address,
            rank=rank,
            cost=cost,
            cached_tokens=cached,
            in_flight_requests=requests - (rank == 1),
            running=metrics.running if metrics else None,
            queue_depth=metrics.queue_depth if metrics else None,
            kv_cache_usage=metrics.kv_cache_usage if metrics else None,
        )
        for rank, (endpoint, metrics, requests, cached, cost) in best
    ]
