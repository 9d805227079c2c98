"""What waits for an endpoint while all are full: in which order, how long, and how much of it.

More critical requests go before all others. Among equals, flows take turns by the tokens that they cost (start-time
fair queueing: Goyal, Vin and Cheng, 1996): while two flows wait, neither gets further ahead of the other than the two
dearest of their requests, however many it sends. Within a flow, first come, first served."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

from picker.endpoints.endpoint import Endpoint
from picker.resources.inference import Criticality
from picker.scheduling.request import Refusal, Refused
from picker.scheduling.saturation import SATURATION_LIMITS, STALE_AFTER_S, SaturationLimit, has_capacity

BEYOND: Mapping[Criticality, SaturationLimit] = {
    # Sheddable requests would be turned away here.
    Criticality.SHEDDABLE: SATURATION_LIMITS[Criticality.SHEDDABLE],
    # What waits at a server waits in the order of its coming, and for that server alone. A few have to, so that its
    # next step has no gap: at the rate of an A10 a second is two of them.
    Criticality.STANDARD: SaturationLimit(wait_s=1.0, kv_cache_usage=inf),
    # Twice that, so that it is sent before anything else would be, even past what has just been let go.
    Criticality.CRITICAL: SaturationLimit(wait_s=2.0, kv_cache_usage=inf),
}
"""Requests are held while no endpoint has this much room for them. Less critical ones need more of it."""

ORDER = (Criticality.CRITICAL, Criticality.STANDARD, Criticality.SHEDDABLE)

MAX_UNSCRAPED_BURST = 16
"""Requests more than at the newest scrape that an endpoint is sent unseen, or as many again as it had then: an idle one
takes a step's worth of them at once, and a burst that it can take is let through within a few scrapes."""

IDLE_FLOWS = 1000
"""Flows with nothing waiting that are remembered, because they are ahead of others: their names are the clients'
choice, so there may be any number."""

T = TypeVar("T")


def has_capacity_for(criticality: Criticality, endpoints: Sequence[Endpoint], now_s: float) -> bool:
    """Whether a request of this criticality need not be held. Where no endpoint is there or answers, holding it helps
    nobody."""
    room = BEYOND[criticality]
    answering = [endpoint for endpoint in endpoints if endpoint.unreachable_since_s is None]
    return not answering or any(
        has_capacity(room, endpoint, now_s) and not _outran_scrape(endpoint, now_s) for endpoint in answering
    )


def _outran_scrape(endpoint: Endpoint, now_s: float) -> bool:
    """Whether so much has come since the newest scrape that a queue may have grown which that did not see."""
    metrics = endpoint.metrics
    if metrics is None or now_s - metrics.scraped_at_s > STALE_AFTER_S:
        return False
    then = metrics.in_flight_at_scrape
    return endpoint.in_flight.requests - then >= max(MAX_UNSCRAPED_BURST, then)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of what waits in a pool, for each criticality."""

    requests: int
    body_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Held(Generic[T]):
    """A request's place in the queue."""

    item: T
    criticality: Criticality
    flow: str
    cost_tokens: int
    """Of its prompt and its answer, as far as can be told beforehand."""
    body_bytes: int
    expires_s: float
    """On the caller's clock."""


class FlowQueue(Generic[T]):
    """The queue of one pool."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._bands: Mapping[Criticality, PriorityBand[T]] = {each: PriorityBand() for each in ORDER}

    def __len__(self) -> int:
        return sum(len(band.held) for band in self._bands.values())

    def waiting(self, criticality: Criticality) -> int:
        """Requests of this criticality."""
        return len(self._bands[criticality].held)

    def waiting_bytes(self, criticality: Criticality) -> int:
        """Of those requests' bodies."""
        return self._bands[criticality].body_bytes

    def goes_before(self, criticality: Criticality) -> bool:
        """Whether something waits that goes before a request of this criticality that comes now."""
        return any(self._bands[each].held for each in ORDER[: ORDER.index(criticality) + 1])

    def add(self, held: Held[T]) -> Refusal | None:
        """Let it wait, unless the bounds do not allow it. It must not expire before one of the same criticality that
        was added before it (ValueError): the time limit is the same for all."""
        band = self._bands[held.criticality]
        bounds = self._bounds
        if len(band.held) >= bounds.requests or band.body_bytes + held.body_bytes > bounds.body_bytes:
            return Refusal(
                Refused.QUEUE_FULL,
                f"All model servers are busy, and as many {held.criticality} requests wait as may. Try again later.",
            )
        band.add(held)
        return None

    def remove(self, held: Held[T]) -> None:
        """Its client has left. A no-op for one that waits no more."""
        band = self._bands[held.criticality]
        if held in band.held:
            band.remove(held)

    def release(self, has_capacity: Callable[[Criticality], bool], may_go: Callable[[T], bool]) -> Iterator[T]:
        """Remove waiting items in order while there is capacity. `has_capacity` is asked before each item, `may_go`
        whether there is room for this one in particular; if not, its flow is passed over. The queue may be changed
        between two items."""
        for criticality in ORDER:
            band = self._bands[criticality]
            passed: list[_Flow[T]] = []
            room = True
            try:
                while band.held and (room := has_capacity(criticality)) and (flow := band.next_flow()) is not None:
                    held = flow.first
                    if may_go(held.item):
                        band.serve(flow, held)
                        yield held.item
                    else:
                        passed.append(flow)
            finally:
                for flow in passed:
                    band.take_turn(flow)
            if not room:
                # Nor is there for less critical ones.
                return

    def expired(self, now_s: float) -> Iterator[T]:
        """Take out what has waited to its end."""
        for band in self._bands.values():
            while band.held and (first := next(iter(band.held))).expires_s <= now_s:
                band.remove(first)
                yield first.item


class _Flow(Generic[T]):
    """What waits of one flow."""

    __slots__ = ("held", "in_turn", "served_tokens")

    def __init__(self) -> None:
        self.held: dict[Held[T], None] = {}
        """In the order of coming."""
        self.served_tokens = 0
        """How far it has come: the band's level when it began to wait, and the cost of what was served since."""
        self.in_turn = False

    @property
    def first(self) -> Held[T]:
        return next(iter(self.held))


class PriorityBand(Generic[T]):
    """What waits of one criticality."""

    __slots__ = ("_count", "_flows", "_level_tokens", "_turns", "body_bytes", "held")

    def __init__(self) -> None:
        self.held: dict[Held[T], None] = {}
        """In the order of coming."""
        self.body_bytes = 0
        self._flows: dict[str, _Flow[T]] = {}
        self._turns: list[tuple[int, int, _Flow[T]]] = []
        """A heap: how far each flow that waits has come, and since when it waits. Flows that have left may be there."""
        self._level_tokens = 0
        """How far the flow had come that was served last. One that begins to wait begins there: it has nothing saved
        from times when it asked for nothing."""
        self._count = 0

    def add(self, held: Held[T]) -> None:
        """Raises ValueError; see `FlowQueue.add`."""
        if self.held and held.expires_s < next(reversed(self.held)).expires_s:
            raise ValueError(f"expires at {held.expires_s} s, before one that was added earlier")
        flow = self._flows.get(held.flow)
        if flow is None:
            if len(self._flows) > len(self.held) + IDLE_FLOWS:
                self._forget_idle()
            flow = self._flows[held.flow] = _Flow()
        if not flow.held:
            flow.served_tokens = max(flow.served_tokens, self._level_tokens)
        flow.held[held] = self.held[held] = None
        self.body_bytes += held.body_bytes
        if len(flow.held) == 1:
            self.take_turn(flow)

    def remove(self, held: Held[T]) -> None:
        del self.held[held]
        del self._flows[held.flow].held[held]
        self.body_bytes -= held.body_bytes
        if not self.held:
            # Who came further than others while all waited owes nothing to those who come next.
            self._flows.clear()
            self._turns.clear()
            self._level_tokens = 0

    def next_flow(self) -> _Flow[T] | None:
        """The flow that has come least far. It has its turn no more until it takes it again."""
        while self._turns:
            _, _, flow = heappop(self._turns)
            flow.in_turn = False
            if flow.held:
                return flow
        return None

    def take_turn(self, flow: _Flow[T]) -> None:
        """Let `flow` be chosen again, if something of it waits."""
        if flow.held and not flow.in_turn:
            flow.in_turn = True
            self._count += 1
            heappush(self._turns, (flow.served_tokens, self._count, flow))

    def serve(self, flow: _Flow[T], held: Held[T]) -> None:
        """Take `held` out, at the expense of its flow."""
        self._level_tokens = max(self._level_tokens, flow.served_tokens)
        flow.served_tokens += 1 + held.cost_tokens
        self.remove(held)
        self.take_turn(flow)

    def _forget_idle(self) -> None:
        """Flows that are not ahead of the level begin there anyhow. Are there too many that are, they are let off."""
        level_tokens = self._level_tokens
        ahead = {name: flow for name, flow in self._flows.items() if flow.held or flow.served_tokens > level_tokens}
        if len(ahead) > len(self.held) + IDLE_FLOWS // 2:
            ahead = {name: flow for name, flow in ahead.items() if flow.held}
        self._flows = ahead
        self._turns = [turn for turn in self._turns if turn[2].held]
        heapify(self._turns)
