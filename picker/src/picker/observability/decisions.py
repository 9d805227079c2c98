"""The JSON of `/decisions`, made from the recorded decisions when the page is read."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from heapq import nsmallest
from itertools import islice
from typing import Literal

import msgspec

from picker.observability.priority_labels import criticality_name
from picker.observability.recent_decisions import DecisionSnapshot, RecordedDecision
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_observer import RejectedRequest

SHOWN_CANDIDATES = 100
"""Of one decision, in some 25 KB. Judgement: more than a person compares."""


class Candidate(msgspec.Struct, frozen=True):
    """An endpoint at the time of a decision."""

    server: str
    address: str
    rank: int | None
    """The order in which the proxy tries the endpoints, from 1; None for those that are not sent to the proxy."""
    cost: float | None
    """By the pool's strategy, lower is better: seconds with DEFAULT and PREFIX_CACHE. None for a rejected request."""
    cached_tokens: int | None
    in_flight_requests: int
    """Through this picker, before this request."""
    running: int | None
    queue_depth: int | None
    kv_cache_usage: float | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduling decision, and the current state of its request."""

    request_id: str | None
    at: datetime
    pool: str
    strategy: str
    criticality: str
    priority: int | None = None
    """None for a request that was rejected before its body was read."""
    model: str | None
    target_model: str | None
    path: str
    prompt_tokens: int
    cached_tokens: int = 0
    output_tokens: int = 0
    decision_s: float
    outcome: Literal["in flight", "ended", "rejected"]
    server: str | None = None
    address: str | None = None
    fell_back: bool = False
    """Whether another endpoint than the best one served the request."""
    status: int | None = None
    """Of the response; None before its headers."""
    reason: str | None = None
    """Of a rejected request."""
    detail: str | None = None
    first_byte_s: float | None = None
    """From the pick to the response headers; None before them."""
    duration_s: float | None = None
    """From the pick to the end of the response; None while it is in flight."""
    candidates: Sequence[Candidate]


def newest(
    kept: Iterable[RecordedDecision], now_s: float, *, limit: int, request_id: str | None, pool: str | None
) -> Iterator[Decision]:
    """Yields the newest decisions of `pool` on requests whose id begins with `request_id`. None matches all. `kept`:
    newest first. `now_s`: on the director's timer."""
    matching = (decision for decision in kept if _matches(decision.request, request_id, pool))
    wall_s = time.time()
    for decision in islice(matching, limit):
        request = decision.request
        at = datetime.fromtimestamp(wall_s - now_s + request.begun_s, UTC)
        if isinstance(request, InFlightRequest):
            yield _scheduled(request, decision.snapshot, at)
        else:
            yield _rejected(request, decision.snapshot, at)


def _matches(request: InFlightRequest | RejectedRequest, request_id: str | None, pool: str | None) -> bool:
    same_id = request_id is None or (request.info.request_id or "").startswith(request_id)
    return same_id and pool in (None, request.pool)


def _scheduled(request: InFlightRequest, snapshot: DecisionSnapshot | None, at: datetime) -> Decision:
    ranks = {endpoint.address: rank for rank, endpoint in enumerate(request.ranking.endpoints, 1)}
    return Decision(
        request_id=request.info.request_id,
        at=at,
        pool=request.pool,
        strategy=request.strategy,
        criticality=criticality_name(request.request.priority),
        priority=request.request.priority,
        model=request.requested_model,
        target_model=request.served_model or request.requested_model,
        path=request.info.path,
        prompt_tokens=request.request.prompt_tokens,
        cached_tokens=request.ranking.cached_tokens,
        output_tokens=request.request.output_tokens,
        decision_s=request.decided_s - request.begun_s,
        outcome="in flight" if request.ended_s is None else "ended",
        server=request.endpoint.server,
        address=request.endpoint.address,
        fell_back=request.rerouted,
        status=request.status,
        first_byte_s=request.response_s - request.begun_s if request.response_s is not None else None,
        duration_s=request.ended_s - request.begun_s if request.ended_s is not None else None,
        candidates=_candidates(snapshot, ranks),
    )


def _rejected(request: RejectedRequest, snapshot: DecisionSnapshot | None, at: datetime) -> Decision:
    return Decision(
        request_id=request.info.request_id,
        at=at,
        pool=request.pool,
        strategy=request.strategy,
        criticality=criticality_name(request.priority),
        priority=request.priority,
        model=request.requested_model,
        target_model=None,
        path=request.info.path,
        prompt_tokens=request.prompt_tokens,
        decision_s=request.decided_s - request.begun_s,
        outcome="rejected",
        status=request.rejection.status,
        reason=request.rejection.reason,
        detail=request.rejection.message,
        candidates=_candidates(snapshot, {}),
    )


def _candidates(snapshot: DecisionSnapshot | None, ranks: dict[str, int]) -> list[Candidate]:
    """The candidates by rank, then by cost; at most `SHOWN_CANDIDATES`."""
    if snapshot is None:
        return []
    count = len(snapshot.endpoints)
    unknown = [None] * count
    rows = zip(
        snapshot.endpoints,
        snapshot.metrics,
        snapshot.requests,
        snapshot.cached_tokens or unknown,
        snapshot.costs or unknown,
        strict=True,
    )
    ranked = ((ranks.get(row[0].address), row) for row in rows)
    best = nsmallest(SHOWN_CANDIDATES, ranked, key=lambda entry: (entry[0] or count + 1, entry[1][4] or 0.0))
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
