"""The queue of requests that wait while all endpoints of a pool are full: its order, bounds and expiry.

Requests of a higher priority are released first. Flows of one priority share the capacity by the tokens that their
requests cost (start-time fair queueing: Goyal, Vin and Cheng, 1996). While two flows wait, neither gets further ahead
of the other than the cost of their two most expensive requests. Requests of one flow are released in order of arrival.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from picker.rejection import Rejection, RejectReason
from picker.resources.inference import Criticality

MAX_BANDS = 100
"""Priorities of one criticality that wait at once in a pool. Each is checked for expired requests at each tick.
Judgement: as many as metrics have labels for."""

IDLE_FLOWS = 1000
"""Flows without waiting requests that are kept because they are ahead of others. Clients choose the names of flows, so
their number is limited. Judgement."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on the queued requests of one pool, for all priorities of a criticality together."""

    requests: int
    body_bytes: int


OnAdmitted = Callable[[Rejection | None], None]
"""Called once when a request has left the queue. The argument is None to schedule it now, else its rejection."""


@dataclass(frozen=True, slots=True, eq=False)
class QueuedRequest:
    """A request that waits for an endpoint."""

    pool: str
    """`ServedPool.key`."""
    priority: int
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
        self._bands: dict[int, PriorityBand] = {}
        """By priority, highest first. Empty bands are removed."""

    def __len__(self) -> int:
        return sum(len(band.waiting) for band in self._bands.values())

    def bands(self) -> Iterator[tuple[int, "PriorityBand"]]:
        """Returns the waiting requests by priority, highest first."""
        return iter(list(self._bands.items()))

    def goes_before(self, priority: int) -> bool:
        """Whether a waiting request would be released before one of this priority that arrives now."""
        return any(band.waiting and other >= priority for other, band in self._bands.items())

    def add(self, request: QueuedRequest) -> Sequence[QueuedRequest] | Rejection:
        """Queues `request`, or rejects it beyond the bounds of its criticality. Returns the requests that it displaces:
        those of the lowest priorities of its criticality, newest first, as many as it needs the room of."""
        displaced = self._displaced(request)
        if displaced is None:
            criticality = Criticality.of_priority(request.priority)
            return Rejection(
                RejectReason.QUEUE_FULL,
                f"All model servers are busy and the queue of {criticality} requests is full. Try again later.",
            )
        for lower in displaced:
            self.remove(lower)
        band = self._bands.get(request.priority)
        if band is None:
            band = PriorityBand()
            self._bands = dict(sorted([*self._bands.items(), (request.priority, band)], reverse=True))
        band.add(request)
        return displaced

    def remove(self, request: QueuedRequest) -> bool:
        """Removes a request whose client has disconnected. Returns whether it waited."""
        band = self._bands.get(request.priority)
        if band is None or request not in band.waiting:
            return False
        band.remove(request)
        self._drop_empty(request.priority)
        return True

    def release(
        self, has_capacity: Callable[[int], bool], may_go: Callable[[QueuedRequest], bool]
    ) -> Iterator[QueuedRequest]:
        """Removes waiting requests in order while there is capacity, and yields each. `has_capacity` is called with the
        priority before each request. `may_go` returns whether there is capacity for this request; if not, its flow is
        skipped. The queue may change between two requests."""
        for priority, band in self.bands():
            skipped: list[_Flow] = []
            free = True
            try:
                while band.waiting and (free := has_capacity(priority)) and (flow := band.next_flow()) is not None:
                    request = flow.first
                    if may_go(request):
                        band.serve(flow, request)
                        yield request
                    else:
                        skipped.append(flow)
            finally:
                for flow in skipped:
                    band.take_turn(flow)
                self._drop_empty(priority)
            if not free:
                # Requests of a lower priority need at least as much capacity.
                return

    def expired(self, now_s: float) -> Iterator[QueuedRequest]:
        """Removes the requests that have expired, and yields each."""
        for priority, band in self.bands():
            # All are checked: the time limit may have been longer when the first ones arrived.
            for request in [request for request in band.waiting if request.expires_s <= now_s]:
                if request in band.waiting:
                    band.remove(request)
                    yield request
            self._drop_empty(priority)

    def _displaced(self, request: QueuedRequest) -> Sequence[QueuedRequest] | None:
        """The requests of lower priority whose room `request` needs. None if there are not enough of them."""
        criticality = Criticality.of_priority(request.priority)
        same = [entry for entry in self._bands.items() if Criticality.of_priority(entry[0]) is criticality]
        more_requests = sum(len(band.waiting) for _, band in same) + 1 - self.bounds.requests
        more_bytes = sum(band.body_bytes for _, band in same) + request.body_bytes - self.bounds.body_bytes
        more_bands = len(same) + (request.priority not in self._bands) - MAX_BANDS
        displaced: list[QueuedRequest] = []
        for priority, band in reversed(same):
            if priority >= request.priority:
                break
            for lower in reversed(band.waiting):
                if more_requests <= 0 and more_bytes <= 0 and more_bands <= 0:
                    return displaced
                displaced.append(lower)
                more_requests -= 1
                more_bytes -= lower.body_bytes
            more_bands -= 1
        return displaced if more_requests <= 0 and more_bytes <= 0 and more_bands <= 0 else None

    def _drop_empty(self, priority: int) -> None:
        band = self._bands.get(priority)
        if band is not None and not band.waiting:
            del self._bands[priority]


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
    """The waiting requests of one priority."""

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
