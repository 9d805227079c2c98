"""Flow control: queues requests while the endpoints of their pool are full. `queue` defines the order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from picker.endpoints.endpoint import Endpoint
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.director import Director
from picker.requestcontrol.flowcontrol.capacity import has_capacity_for
from picker.requestcontrol.flowcontrol.queue import (
    Bounds,
    FlowQueue,
    OnAdmitted,
    QueuedRequest,
)
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import Criticality
from picker.scheduling.request import allowed

TICK_S = 0.1
"""Between two checks for expired requests, and for capacity that a scrape reports. Judgement."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The queued requests of one priority in one pool."""

    pool: str
    """NAMESPACE/NAME."""
    priority: int
    requests: int
    body_bytes: int


class QueueOutcome(StrEnum):
    """How a request left flow control, in llm-d's words."""

    DISPATCHED = "Dispatched"
    """Scheduled, at once or from the queue. The scheduler may still reject it."""
    REJECTED_CAPACITY = "RejectedCapacity"
    EVICTED_TTL = "EvictedTTL"
    EVICTED_CONTEXT_CANCELLED = "EvictedContextCancelled"
    EVICTED_OTHER = "EvictedOther"
    """Rejected because requests of a higher priority needed its room."""


class FlowControl:
    """The queues of all pools. Call `tick` every TICK_S, and `freed` when an endpoint has become less busy.

    Requests of a priority above 0 are queued too, so that those of several clients take turns. They are never rejected:
    beyond the bounds or the time limit they are scheduled on a full server."""

    def __init__(
        self,
        director: Director,
        clock: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        bounds: Bounds,
        time_limit_s: float,
        *,
        enabled: bool = True,
    ) -> None:
        """`clock`: that of the scrapes. `soon` calls a function after the current event (`loop.call_soon`). `bounds`,
        `time_limit_s` and `enabled` apply to pools without settings of their own."""
        self._time_limit_s = time_limit_s
        self._enabled = enabled
        self.on_outcome: Callable[[str, int, QueueOutcome], None] | None = None
        """Called with the pool, as NAMESPACE/NAME, and the priority of each request that leaves flow control."""
        self._director = director
        self._clock = clock
        self._soon = soon
        self._bounds = bounds
        self._queues: dict[str, FlowQueue] = {}
        """By `ServedPool.key`. Empty queues are removed."""
        self._release_is_due = False
        self._stopped = False

    def join(self, request: PickRequest, on_admitted: OnAdmitted) -> QueuedRequest | Rejection | None:
        """Queues `request`, or returns None if it is to be scheduled now. `on_admitted` is called once for a queued
        request, unless `leave` is called before.

        A request that computes nothing on a server is never queued."""
        pool = self._director.served(request.pool)
        body = request.body
        if pool is None or not self.queues_for(pool) or not (body.output_tokens or body.prompt_tokens):
            return None
        priority = pool.priority(body.model, request.objective)
        queue = self._queues.get(pool.key)
        if has_capacity_for(priority, allowed(pool.endpoints, request.subset), self._clock()):
            if queue is None or not queue.goes_before(priority):
                self._count(pool.key, priority, QueueOutcome.DISPATCHED)
                return None
            # The requests before it are admitted with the next release.
            self.freed()
        own = pool.pool.settings
        # The pool's limits may have changed since its queue was made.
        bounds = Bounds(
            own.flow_control_max_requests or self._bounds.requests,
            own.flow_control_max_bytes or self._bounds.body_bytes,
        )
        time_limit_s = own.flow_control_time_limit_s or self._time_limit_s
        if queue is None:
            queue = self._queues[pool.key] = FlowQueue(bounds)
        queue.bounds = bounds
        queued = QueuedRequest(
            pool.key,
            priority,
            request.flow or "",
            body.prompt_tokens + body.output_tokens * body.sequences,
            request.info.body_bytes,
            request.subset,
            self._clock() + time_limit_s,
            time_limit_s,
            on_admitted,
        )
        added = queue.add(queued)
        if isinstance(added, Rejection):
            self._count(pool.key, priority, _unless_critical(priority, QueueOutcome.REJECTED_CAPACITY))
            return None if priority > 0 else added
        for displaced in added:
            self._leaves(displaced, QueueOutcome.EVICTED_OTHER, _displaced(displaced.priority))
        return queued

    def queues_for(self, pool: ServedPool) -> bool:
        """Whether requests to `pool` may be queued."""
        own = pool.pool.settings.flow_control
        return not self._stopped and (own if own is not None else self._enabled)

    def leave(self, queued: QueuedRequest) -> None:
        """Removes a request whose client has disconnected. No effect if it has already left the queue."""
        queue = self._queues.get(queued.pool)
        if queue is not None and queue.remove(queued):
            self._count(queued.pool, queued.priority, QueueOutcome.EVICTED_CONTEXT_CANCELLED)

    def waited_s(self, queued: QueuedRequest) -> float:
        """How long `queued` has waited until now."""
        return self._clock() - (queued.expires_s - queued.time_limit_s)

    def freed(self) -> None:
        """Releases requests after the current event, because an endpoint has become less busy. Several calls during one
        event cause one release."""
        if self._queues and not self._release_is_due:
            self._release_is_due = True
            self._soon(self._release)

    def tick(self) -> None:
        """Rejects expired requests, and releases those that there is capacity for."""
        now_s = self._clock()
        for queue in list(self._queues.values()):
            for queued in queue.expired(now_s):
                self._leaves(queued, QueueOutcome.EVICTED_TTL, self._expired(queued))
        self._release()

    def stop(self) -> None:
        """Releases all requests, and queues no further ones. The scheduler then decides as without flow control."""
        self._stopped = True
        for queue in list(self._queues.values()):
            for queued in queue.release(lambda _: True, lambda _: True):
                self._leaves(queued, QueueOutcome.DISPATCHED)
        self._queues.clear()

    def waiting(self) -> Iterator[QueueStats]:
        """Returns the queued requests by pool and priority. Priorities of which none waits are left out."""
        for key, queue in list(self._queues.items()):
            pool = self._director.served(key)
            if pool is not None:
                for priority, band in queue.bands():
                    yield QueueStats(pool.label, priority, len(band.waiting), band.body_bytes)

    def _release(self) -> None:
        self._release_is_due = False
        for key, queue in list(self._queues.items()):
            pool = self._director.served(key)
            # Without flow control all requests are released. The director rejects those of a deleted pool.
            self._release_from(queue, pool.endpoints if pool is not None and self.queues_for(pool) else ())
            if not len(queue):
                del self._queues[key]

    def _release_from(self, queue: FlowQueue, endpoints: Sequence[Endpoint]) -> None:
        now_s = self._clock()

        def has_capacity(priority: int) -> bool:
            return has_capacity_for(priority, endpoints, now_s)

        def may_go(queued: QueuedRequest) -> bool:
            subset = queued.subset
            return subset is None or has_capacity_for(queued.priority, allowed(endpoints, subset), now_s)

        for queued in queue.release(has_capacity, may_go):
            self._leaves(queued, QueueOutcome.DISPATCHED)

    def _leaves(self, queued: QueuedRequest, outcome: QueueOutcome, rejection: Rejection | None = None) -> None:
        """Admits or rejects a request that has left its queue."""
        self._count(queued.pool, queued.priority, _unless_critical(queued.priority, outcome))
        queued.on_admitted(rejection)

    def _count(self, key: str, priority: int, outcome: QueueOutcome) -> None:
        pool = self._director.served(key)
        if self.on_outcome is not None and pool is not None:
            self.on_outcome(pool.label, priority, outcome)

    def _expired(self, request: QueuedRequest) -> Rejection | None:
        if request.priority > 0:
            return None
        limit = f"{request.time_limit_s:g} seconds"
        criticality = Criticality.of_priority(request.priority)
        message = f"No model server had capacity for this {criticality} request within {limit}."
        return Rejection(RejectReason.QUEUE_TIMEOUT, message)


def _unless_critical(priority: int, outcome: QueueOutcome) -> QueueOutcome:
    """Requests of a priority above 0 are scheduled where others are rejected."""
    return QueueOutcome.DISPATCHED if priority > 0 else outcome


def _displaced(priority: int) -> Rejection | None:
    if priority > 0:
        return None
    criticality = Criticality.of_priority(priority)
    message = f"The queue of {criticality} requests is full, and requests of a higher priority came. Try again later."
    return Rejection(RejectReason.QUEUE_FULL, message)
