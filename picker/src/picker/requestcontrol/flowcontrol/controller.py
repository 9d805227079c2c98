"""Holds requests back while the servers of their pool are full; see `scheduling.flow_control` for the order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from picker.endpoints.endpoint import Endpoint
from picker.requestcontrol.director import STATUS_OF_REFUSAL, ServedPool
from picker.requestcontrol.flowcontrol.queue import ORDER, Bounds, FlowQueue, Held, has_capacity_for
from picker.requestcontrol.interfaces import OnAdmitted, Wanted
from picker.requestcontrol.rejection import Rejection
from picker.resources.inference import Criticality
from picker.resources.names import PoolName
from picker.scheduling.request import Refused, allowed

TICK_S = 0.1
"""Between two looks at what has waited too long, and at what scrapes have found to be free."""


class Pools(Protocol):
    """Who knows the pools; see `PoolDesk`."""

    def served(self, pool: str | None) -> ServedPool | None: ...


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What waits of one criticality in one pool."""

    pool: PoolName
    criticality: Criticality
    requests: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class _QueuedRequest:
    on_admitted: OnAdmitted
    criticality: Criticality
    subset: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class _Place:
    """See `interfaces.Place`."""

    wait_s: float
    queue: FlowQueue[_QueuedRequest]
    held: Held[_QueuedRequest]

    def leave(self) -> None:
        self.queue.remove(self.held)


class FlowControl:
    """The queues of all pools; see `interfaces.Queue`. Call `tick` every TICK_S, and `freed` when an endpoint has got
    less to do.

    Critical requests are held as well, for those of several clients to take turns, but never refused: when there is no
    place for one, or its time is over, it goes on to a server that is full."""

    def __init__(
        self,
        pools: Pools,
        clock: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        bounds: Bounds,
        time_limit_s: float,
    ) -> None:
        """`clock`: that of the scrapes. `soon` calls a function once what happens now has happened."""
        self._pools = pools
        self._clock = clock
        self._soon = soon
        self._bounds = bounds
        self._time_limit_s = time_limit_s
        self._queues: dict[str, FlowQueue[_QueuedRequest]] = {}
        """By the pool, as requests name it. Empty ones go."""
        self._release_is_due = False
        self._stopped = False

    def join(self, wanted: Wanted, on_admitted: OnAdmitted) -> _Place | Rejection | None:
        """See `interfaces.Queue`. What costs a server nothing is never held."""
        served = self._pools.served(wanted.pool)
        body = wanted.body
        if served is None or self._stopped or not (body.output_tokens or body.prompt_tokens):
            return None
        criticality = served.criticality(body.model, wanted.objective)
        pool = str(served.pool.name)
        queue = self._queues.get(pool)
        if has_capacity_for(criticality, allowed(served.endpoints, wanted.subset), self._clock()):
            if queue is None or not queue.goes_before(criticality):
                return None
            # Those before it have just not been called yet.
            self.freed()
        if queue is None:
            queue = self._queues[pool] = FlowQueue(self._bounds)
        held = Held(
            _QueuedRequest(on_admitted, criticality, wanted.subset),
            criticality,
            wanted.flow or "",
            body.prompt_tokens + body.output_tokens * body.sequences,
            wanted.body_bytes,
            self._clock() + self._time_limit_s,
        )
        refusal = queue.add(held)
        if refusal is None:
            return _Place(self._time_limit_s, queue, held)
        if criticality is Criticality.CRITICAL:
            return None
        return _rejection(refusal.reason, refusal.detail, criticality)

    def freed(self) -> None:
        """An endpoint has become less busy: look, soon and once, at what may go now."""
        if self._queues and not self._release_is_due:
            self._release_is_due = True
            self._soon(self._release)

    def tick(self) -> None:
        """Let go of what has waited to its end, and of what there is room for by now."""
        now_s = self._clock()
        for queue in list(self._queues.values()):
            for waiter in queue.expired(now_s):
                waiter.on_admitted(self._too_late(waiter.criticality))
        self._release()

    def stop(self) -> None:
        """Hold nothing from now on: all that waits is decided at once, as it would be without flow control."""
        self._stopped = True
        for queue in list(self._queues.values()):
            for waiter in queue.release(lambda _: True, lambda _: True):
                waiter.on_admitted(None)
        self._queues.clear()

    def waiting(self) -> Iterator[QueueStats]:
        """What waits now, in pools where anything does."""
        for pool, queue in list(self._queues.items()):
            served = self._pools.served(pool)
            if served is not None:
                for each in ORDER:
                    yield QueueStats(served.pool.name, each, queue.waiting(each), queue.waiting_bytes(each))

    def _release(self) -> None:
        self._release_is_due = False
        for pool, queue in list(self._queues.items()):
            served = self._pools.served(pool)
            # Of a pool that is gone, all: they are answered that it is.
            self._release_from(queue, served.endpoints if served is not None else ())
            if not len(queue):
                del self._queues[pool]

    def _release_from(self, queue: FlowQueue[_QueuedRequest], endpoints: Sequence[Endpoint]) -> None:
        now_s = self._clock()

        def has_capacity(criticality: Criticality) -> bool:
            return has_capacity_for(criticality, endpoints, now_s)

        def may_go(waiter: _QueuedRequest) -> bool:
            subset = waiter.subset
            return subset is None or has_capacity_for(waiter.criticality, allowed(endpoints, subset), now_s)

        for waiter in queue.release(has_capacity, may_go):
            waiter.on_admitted(None)

    def _too_late(self, criticality: Criticality) -> Rejection | None:
        if criticality is Criticality.CRITICAL:
            return None
        detail = f"No model server had room for this {criticality} request within {self._time_limit_s:g} seconds."
        return _rejection(Refused.QUEUE_TIMEOUT, detail, criticality)


def _rejection(reason: Refused, detail: str, criticality: Criticality) -> Rejection:
    return Rejection(STATUS_OF_REFUSAL[reason], reason, detail, criticality=criticality)
