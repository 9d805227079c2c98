"""The newest scheduling decisions, kept for `/decisions`."""

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.rejection import SCHEDULING_REASONS
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_observer import RejectedRequest, RequestObserver
from picker.requestcontrol.served_pool import ServedPool

MAX_ENDPOINTS = 200_000
"""In the snapshots of all kept decisions. Judgement: 1,000 decisions over 200 endpoints take some 25 MB."""


class DecisionSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The endpoints at the time of a decision. All sequences have the same order."""

    endpoints: Sequence[Endpoint]
    metrics: Sequence[ServerMetrics | None]
    """Of the newest scrape at that time."""
    requests: Sequence[int]
    """In flight through this picker, including the scheduled request."""
    cached_tokens: Sequence[int] = ()
    """Tokens of the prompt that are expected in the prefix caches; empty for a rejected request."""
    costs: Sequence[float] = ()
    """Empty for a rejected request."""


class RecordedDecision(msgspec.Struct, frozen=True, gc=False):
    """A kept decision."""

    request: InFlightRequest | RejectedRequest
    snapshot: DecisionSnapshot | None
    """None for a request that was rejected before the endpoints were considered."""


class RecentDecisions(RequestObserver):
    """Keeps the newest decisions. Iterates over them, newest first."""

    def __init__(self, most: int) -> None:
        self.most = most
        """How many are kept."""
        self._decisions: deque[RecordedDecision] = deque(maxlen=most)
        self._endpoints = 0
        """In all snapshots together."""

    def __iter__(self) -> Iterator[RecordedDecision]:
        return reversed(self._decisions)

    def __len__(self) -> int:
        return len(self._decisions)

    def scheduled(self, request: InFlightRequest, pool: ServedPool) -> None:
        ranking = request.ranking
        self._keep(request, _snapshot(ranking.considered, ranking.cached, ranking.costs))

    def rejected(self, request: RejectedRequest, pool: ServedPool | None) -> None:
        considered = pool is not None and request.rejection.reason in SCHEDULING_REASONS
        self._keep(request, _snapshot(pool.endpoints) if pool is not None and considered else None)

    def _keep(self, request: InFlightRequest | RejectedRequest, snapshot: DecisionSnapshot | None) -> None:
        decisions = self._decisions
        if len(decisions) == decisions.maxlen:
            self._discard_oldest()
        decisions.append(RecordedDecision(request, snapshot))
        self._endpoints += len(snapshot.endpoints) if snapshot is not None else 0
        while self._endpoints > MAX_ENDPOINTS and len(decisions) > 1:
            self._discard_oldest()

    def _discard_oldest(self) -> None:
        snapshot = self._decisions.popleft().snapshot
        if snapshot is not None:
            self._endpoints -= len(snapshot.endpoints)


def _snapshot(
    endpoints: Sequence[Endpoint], cached_tokens: Sequence[int] = (), costs: Sequence[float] = ()
) -> DecisionSnapshot:
    """Returns the current state of the endpoints. Copies `endpoints`, which may be the pool's own sequence."""
    metrics = [endpoint.metrics for endpoint in endpoints]
    requests = [endpoint.in_flight.requests for endpoint in endpoints]
    return DecisionSnapshot(tuple(endpoints), metrics, requests, cached_tokens, costs)
