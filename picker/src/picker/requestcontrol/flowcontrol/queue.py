"""The queue of requests that wait while all endpoints of a pool are full: its order, bounds and expiry.

More critical requests are released first. Flows of one criticality share the capacity by the tokens that their requests
cost (start-time fair queueing: Goyal, Vin and Cheng, 1996). While two flows wait, neither gets further ahead of the
other than the cost of their two most expensive requests. Requests of one flow are released in order of arrival."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from picker.endpoints.endpoint import Endpoint
from picker.rejection import Rejection, RejectReason
from picker.resources.inference import Criticality
from picker.scheduling.saturation import SATURATION_LIMITS, STALE_AFTER_S, SaturationLimit, has_capacity

QUEUEING_LIMITS: Mapping[Criticality, SaturationLimit] = {
    # Without a queue, Sheddable requests are rejected here.
    Criticality.SHEDDABLE: SATURATION_LIMITS[Criticality.SHEDDABLE],
    # At a server requests wait in order of arrival, and only for that server. A few have to wait there, so that its
    # next step has no gap. At the rate of an A10 two requests wait one second.
    Criticality.STANDARD: SaturationLimit(wait_s=1.0, kv_cache_usage=inf),
    # Twice that, so that a critical request is sent before any other, even if one was just released.
    Criticality.CRITICAL: SaturationLimit(wait_s=2.0, kv_cache_usage=inf),
}
"""Requests of a criticality are queued while no endpoint is below these limits. Less critical ones need more
capacity."""

ORDER = (Criticality.CRITICAL, Criticality.STANDARD, Criticality.SHEDDABLE)

IDLE_FLOWS = 1000
"""Flows without waiting requests that are kept because they are ahead of others. Clients choose the names of flows, so
their number is limited. Judgement."""


def has_capacity_for(criticality: Criticality, endpoints: Sequence[Endpoint], now_s: float) -> bool:
    """Whether a request of this criticality may be scheduled now. True if no endpoint is reachable, because waiting
    would not help."""
    limit = QUEUEING_LIMITS[criticality]
    reachable = [endpoint for endpoint in endpoints if endpoint.unreachable_since_s is None]
    return not reachable or any(
        has_capacity(limit, endpoint, now_s) and not _outran_scrape(endpoint, now_s) for endpoint in reachable
    )


def _outran_scrape(endpoint: Endpoint, now_s: float) -> bool:
    """Whether the endpoint may have a queue that a scrape will show soon."""
    metrics = endpoint.metrics
    return endpoint.outran_scrape and metrics is not None and now_s - metrics.scraped_at_s <= STALE_AFTER_S


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on the queued requests of one pool, for each criticality."""

    requests: int
    body_bytes: int


OnAdmitted = Callable[[Rejection | None], None]
"""Called once when a request has left the queue. The argument is None to schedule it now, else its rejection."""


@dataclass(frozen=True, slots=True, eq=False)
class QueuedRequest:
    """A request that waits for an endpoint."""

    pool: str
    """`ServedPool.key`."""
    criticality: Criticality
    flow: str
    cost_tokens: int
    """Of its prompt and its expected output."""
    body_bytes: int
    subset: frozenset[str] | None
    """Addresses that the proxy allows; None allows all."""
    expires_s: float
    """On the clock of the scrapes."""
    time_limit_s: float
    """The time from its arrival until it expires."""
    on_admitted: OnAdmitted


class FlowQueue:
    """The queue of one pool."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        """A change applies to requests that are added later."""
        self._bands: Mapping[Criticality, PriorityBand] = {criticality: PriorityBand() for criticality in ORDER}

    def __len__(self) -> int:
        return sum(len(band.waiting) for band in self._bands.values())

    def waiting(self, criticality: Criticality) -> int:
        """The number of requests of this criticality."""
        return len(self._bands[criticality].waiting)

    def waiting_bytes(self, criticality: Criticality) -> int:
        """The bytes of those requests' bodies."""
        return self._bands[criticality].body_bytes

    def goes_before(self, criticality: Criticality) -> bool:
        """Whether a waiting request would be released before one of this criticality that arrives now."""
        return any(self._bands[other].waiting for other in ORDER[: ORDER.index(criticality) + 1])

    def add(self, request: QueuedRequest) -> Rejection | None:
        """Queues `request`, or rejects it beyond the bounds."""
        band, bounds = self._bands[request.criticality], self.bounds
        if len(band.waiting) >= bounds.requests or band.body_bytes + request.body_bytes > bounds.body_bytes:
            return Rejection(
                RejectReason.QUEUE_FULL,
                f"All model servers are busy and the queue of {request.criticality} requests is full. Try again later.",
            )
        band.add(request)
        return None

    def remove(self, request: QueuedRequest) -> None:
        """Removes a request whose client has disconnected. No effect if it does not wait."""
        band = self._bands[request.criticality]
        if request in band.waiting:
            band.remove(request)

    def release(
        self, has_capacity: Callable[[Criticality], bool], may_go: Callable[[QueuedRequest], bool]
    ) -> Iterator[QueuedRequest]:
        """Removes waiting requests in order while there is capacity, and yields each. `has_capacity` is called before
        each request. `may_go` returns whether there is capacity for this request; if not, its flow is skipped. The
        queue may change between two requests."""
        for criticality in ORDER:
            band = self._bands[criticality]
            skipped: list[_Flow] = []
            free = True
            try:
                while band.waiting and (free := has_capacity(criticality)) and (flow := band.next_flow()) is not None:
                    request = flow.first
                    if may_go(request):
                        band.serve(flow, request)
                        yield request
                    else:
                        skipped.append(flow)
            finally:
                for flow in skipped:
                    band.take_turn(flow)
            if not free:
                # Less critical requests need more capacity.
                return

    def expired(self, now_s: float) -> Iterator[QueuedRequest]:
        """Removes the requests that have expired, and yields each."""
        for band in self._bands.values():
            # All are checked: the time limit may have been longer when the first ones arrived.
            for request in [request for request in band.waiting if request.expires_s <= now_s]:
                if request in band.waiting:
                    band.remove(request)
                    yield request


class _Flow:
    """The waiting requests of one flow."""

    __slots__ = ("in_turn", "served_tokens", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[QueuedRequest, None] = {}
        """In order of arrival."""
        self.served_tokens = 0
        """The flow's virtual time: the band's when it began to wait, plus the cost of its requests released since."""
        self.in_turn = False
        """Whether the flow is in the band's heap."""

    @property
    def first(self) -> QueuedRequest:
        return next(iter(self.waiting))


class PriorityBand:
    """The waiting requests of one criticality."""

    __slots__ = ("_count", "_flows", "_level_tokens", "_turns", "body_bytes", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[QueuedRequest, None] = {}
        """In order of arrival."""
        self.body_bytes = 0
        self._flows: dict[str, _Flow] = {}
        self._turns: list[tuple[int, int, _Flow]] = []
        """A heap of the waiting flows by virtual time, then by when they began to wait. It may have flows without
        waiting requests."""
        self._level_tokens = 0
        """The band's virtual time: that of the flow that was served last. A flow that begins to wait starts from it, so
        an idle flow collects no credit."""
        self._count = 0

    def add(self, request: QueuedRequest) -> None:
        flow = self._flows.get(request.flow)
        if flow is None:
            if len(self._flows) > len(self.waiting) + IDLE_FLOWS:
                self._drop_idle()
            flow = self._flows[request.flow] = _Flow()
        if not flow.waiting:
            flow.served_tokens = max(flow.served_tokens, self._level_tokens)
        flow.waiting[request] = self.waiting[request] = None
        self.body_bytes += request.body_bytes
        if len(flow.waiting) == 1:
            self.take_turn(flow)

    def remove(self, request: QueuedRequest) -> None:
        """Removes a waiting request. Raises KeyError for one that does not wait."""
        del self.waiting[request]
        del self._flows[request.flow].waiting[request]
        self.body_bytes -= request.body_bytes
        if not self.waiting:
            # A flow owes nothing to flows that come after all others have left.
            self._flows.clear()
            self._turns.clear()
            self._level_tokens = 0

    def next_flow(self) -> _Flow | None:
        """Removes and returns the flow with the lowest virtual time. `take_turn` puts it back."""
        while self._turns:
            _, _, flow = heappop(self._turns)
            flow.in_turn = False
            if flow.waiting:
                return flow
        return None

    def take_turn(self, flow: _Flow) -> None:
        """Adds `flow` to the heap of `next_flow`, if a request of it waits."""
        if flow.waiting and not flow.in_turn:
            flow.in_turn = True
            self._count += 1
            heappush(self._turns, (flow.served_tokens, self._count, flow))

    def serve(self, flow: _Flow, request: QueuedRequest) -> None:
        """Removes `request`, and charges its cost to its flow."""
        self._level_tokens = max(self._level_tokens, flow.served_tokens)
        flow.served_tokens += 1 + request.cost_tokens
        self.remove(request)
        self.take_turn(flow)

    def _drop_idle(self) -> None:
        """Removes idle flows whose virtual time is not ahead of the band's, from which they would start again. If too
        many are ahead, removes all idle ones."""
        level_tokens = self._level_tokens
        ahead = {name: flow for name, flow in self._flows.items() if flow.waiting or flow.served_tokens > level_tokens}
        if len(ahead) > len(self.waiting) + IDLE_FLOWS // 2:
            ahead = {name: flow for name, flow in ahead.items() if flow.waiting}
        self._flows = ahead
        self._turns = [turn for turn in self._turns if turn[2].waiting]
        heapify(self._turns)
