"""The queue of flow control: order, fairness, bounds and expiry."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.flowcontrol.capacity import QUEUEING_LIMITS
from picker.requestcontrol.flowcontrol.queue import (
    IDLE_FLOWS,
    MAX_BANDS,
    Bounds,
    FlowQueue,
    QueuedRequest,
)
from picker.resources.inference import Criticality

PRIORITIES = (7, 1, 0, -1, -10)
WIDE_BOUNDS = Bounds(requests=10_000, body_bytes=1 << 30)


@dataclass(frozen=True, slots=True, eq=False)
class Numbered(QueuedRequest):
    """A queued request that a test identifies by its number."""

    number: int


def queued(
    number: int,
    flow: str = "a",
    priority: int = 0,
    *,
    tokens: int = 100,
    body_bytes: int = 10,
    expires_s: float = 60.0,
) -> Numbered:
    return Numbered("pool", priority, flow, tokens, body_bytes, None, expires_s, 60.0, lambda _: None, number)


def flow_queue(*waiting: Numbered, bounds: Bounds = WIDE_BOUNDS) -> FlowQueue:
    queue = FlowQueue(bounds)
    for request in waiting:
        assert queue.add(request) == []
    return queue


def number_of(request: QueuedRequest) -> int:
    assert isinstance(request, Numbered)
    return request.number


def released(queue: FlowQueue, most: int = 1 << 30, barred: frozenset[int] = frozenset()) -> list[int]:
    """The numbers of the requests that are released with capacity for `most`, and none for `barred` ones."""
    out: list[int] = []
    for request in queue.release(lambda _: len(out) < most, lambda request: number_of(request) not in barred):
        out.append(number_of(request))  # noqa: PERF401 - the capacity depends on the requests released before
    return out


def test_requests_of_a_higher_priority_are_released_first() -> None:
    """Also within a criticality."""
    waiting = [queued(number, priority=priority) for number, priority in enumerate(reversed(PRIORITIES))]
    assert released(flow_queue(*waiting)) == [4, 3, 2, 1, 0]


def test_requests_of_a_lower_priority_wait_behind_one_of_a_higher() -> None:
    """Even if there is capacity for them."""
    queue = flow_queue(queued(1, priority=-1), queued(2, priority=1))
    assert list(queue.release(lambda priority: priority < 0, lambda _: True)) == []
    assert len(queue) == 2


def test_requests_of_a_lower_priority_need_more_capacity() -> None:
    """`release` relies on it: without capacity for a critical request there is none for others."""
    limits = [QUEUEING_LIMITS[Criticality.of_priority(priority)] for priority in PRIORITIES]
    assert limits == sorted(limits, key=lambda limit: (-limit.wait_s, -limit.kv_cache_usage))


def test_requests_of_a_flow_are_released_in_order_of_arrival() -> None:
    assert released(flow_queue(*(queued(number) for number in range(5)))) == [0, 1, 2, 3, 4]


def test_a_flow_with_many_requests_does_not_delay_one_with_few() -> None:
    many = [queued(number, "many") for number in range(100)]
    assert released(flow_queue(*many, queued(100, "few"), queued(101, "few")), most=4) == [0, 100, 1, 101]


def test_flows_share_the_capacity_by_tokens() -> None:
    """One long prompt is released for ten short ones."""
    long = [queued(number, "long", tokens=999) for number in range(50)]
    short = [queued(100 + number, "short", tokens=99) for number in range(50)]
    flows = Counter("long" if number < 100 else "short" for number in released(flow_queue(*long, *short), most=44))
    assert flows == {"long": 4, "short": 40}


def test_a_flow_that_was_served_waits_behind_the_others() -> None:
    """Also if its next request arrives only after the first was released."""
    queue = flow_queue(queued(0, "one", tokens=1000), *(queued(number, f"other {number}") for number in range(1, 4)))
    assert released(queue, most=1) == [0]
    assert queue.add(queued(9, "one", tokens=1000)) == []
    assert released(queue, most=3) == [1, 2, 3]


def test_an_idle_flow_collects_no_credit() -> None:
    """Otherwise it would block the others until it has got as many tokens as they got before."""
    queue = flow_queue(*(queued(number, "old") for number in range(100)))
    assert len(released(queue, most=50)) == 50
    for number in range(100, 120):
        assert queue.add(queued(number, "new")) == []
    assert sum(number >= 100 for number in released(queue, most=10)) in (4, 5, 6)


def test_a_flow_whose_first_request_may_not_go_is_skipped() -> None:
    """It keeps its position."""
    queue = flow_queue(queued(0, "barred"), queued(1, "barred"), queued(2, "free"), queued(3, "free"))
    assert released(queue, barred=frozenset({0})) == [2, 3]
    assert released(queue) == [0, 1]


def test_a_removed_request_is_not_released() -> None:
    first, second = queued(1), queued(2)
    queue = flow_queue(first, second)
    queue.remove(first)
    queue.remove(first)
    assert released(queue) == [2]
    queue.remove(second)
    assert (len(queue), list(queue.bands())) == (0, [])


@pytest.mark.parametrize("bounds", [Bounds(requests=2, body_bytes=1000), Bounds(requests=100, body_bytes=25)])
def test_a_request_beyond_the_bounds_is_rejected(bounds: Bounds) -> None:
    """Each criticality has its own bounds, so many batch requests do not block others."""
    queue = flow_queue(queued(1), queued(2), bounds=bounds)
    rejection = queue.add(queued(3))
    assert isinstance(rejection, Rejection)
    assert rejection.reason is RejectReason.QUEUE_FULL
    assert "Standard" in rejection.message
    assert queue.add(queued(4, priority=-1)) == []
    assert sorted(released(queue)) == [1, 2, 4]


@pytest.mark.parametrize("bounds", [Bounds(requests=4, body_bytes=1000), Bounds(requests=100, body_bytes=45)])
def test_a_request_beyond_the_bounds_displaces_the_newest_of_the_lowest_priority(bounds: Bounds) -> None:
    """Of its own criticality. Otherwise a flood of a low priority would keep a higher one out of the queue."""
    waiting = [queued(1, priority=-1), queued(2, priority=-5), queued(3, priority=-5), queued(4, priority=-3)]
    queue = flow_queue(queued(0), *waiting, bounds=bounds)
    assert added(queue, queued(5, priority=-2)) == [3]
    assert added(queue, queued(6, priority=-2, body_bytes=20)) == ([2] if bounds.requests == 4 else [2, 4])
    assert added(queue, queued(7, priority=-5)) is None
    assert released(queue)[:3] == [0, 1, 5]


def test_a_request_that_does_not_fit_displaces_none() -> None:
    """Not even those of a lower priority whose room would be a part of what it needs."""
    queue = flow_queue(queued(1, priority=-1), queued(2, priority=-2), bounds=Bounds(requests=3, body_bytes=25))
    assert added(queue, queued(3, priority=-1, body_bytes=20)) is None
    assert released(queue) == [1, 2]


def test_the_number_of_waiting_priorities_is_bounded() -> None:
    """A further priority displaces the lowest one."""
    queue = flow_queue(*(queued(number, priority=-2 - number) for number in range(MAX_BANDS)))
    assert added(queue, queued(1000, priority=-1 - 2 * MAX_BANDS)) is None
    assert added(queue, queued(1001, priority=-1)) == [MAX_BANDS - 1]
    assert len(list(queue.bands())) == MAX_BANDS


def test_a_priority_of_which_no_request_waits_has_no_band() -> None:
    queue = flow_queue(*(queued(number, priority=number, expires_s=1.0 + number) for number in range(4)))
    assert [number_of(request) for request in queue.expired(1.0)] == [0]
    assert released(queue, most=1) == [3]
    queue.remove(queue_first(queue))
    assert [priority for priority, _ in queue.bands()] == [1]


def queue_first(queue: FlowQueue) -> QueuedRequest:
    _, band = next(queue.bands())
    return next(iter(band.waiting))


def added(queue: FlowQueue, request: Numbered) -> list[int] | None:
    """The numbers of the requests that `request` displaces. None if it is rejected."""
    result = queue.add(request)
    return None if isinstance(result, Rejection) else list(map(number_of, result))


def test_an_expired_request_is_returned_once() -> None:
    queue = flow_queue(*(queued(number, f"flow {number % 2}", expires_s=60.0 + number) for number in range(4)))
    assert list(map(number_of, queue.expired(59.9))) == []
    assert list(map(number_of, queue.expired(61.0))) == [0, 1]
    assert list(map(number_of, queue.expired(61.0))) == []
    assert released(queue) == [2, 3]


def test_a_later_request_may_expire_earlier() -> None:
    """The time limit was lowered between them."""
    queue = flow_queue(queued(1, expires_s=60.0), queued(2, expires_s=20.0))
    assert list(map(number_of, queue.expired(20.0))) == [2]
    assert list(map(number_of, queue.expired(60.0))) == [1]


def test_a_request_that_leaves_while_others_expire_is_not_returned() -> None:
    """A callback of one may remove another."""
    one, other = queued(1), queued(2)
    queue = flow_queue(one, other)
    expired = queue.expired(60.0)
    assert next(expired) is one
    queue.remove(other)
    assert list(expired) == []


def test_changed_bounds_apply_to_requests_that_are_added_later() -> None:
    queue = flow_queue(queued(1), queued(2))
    queue.bounds = Bounds(requests=1, body_bytes=1 << 30)
    assert isinstance(queue.add(queued(3)), Rejection)
    assert released(queue) == [1, 2]
    assert queue.add(queued(4)) == []


def test_the_number_of_idle_flows_is_bounded() -> None:
    """One flow waits all the time, so that the band is never empty. The others leave or are released."""
    queue = flow_queue(queued(0, "stays", tokens=1 << 20), queued(1, "released"))
    assert released(queue, most=1) == [0]
    for number in range(10 * IDLE_FLOWS):
        passing = queued(number, f"flow {number}")
        queue.add(passing)
        if number % 2:
            queue.remove(passing)
        else:
            assert len(released(queue, most=1)) == 1
    band = queue._bands[0]
    assert len(band._flows) <= IDLE_FLOWS + 3
    assert len(band._turns) <= IDLE_FLOWS + 3


costs = st.integers(0, 5000)


@given(st.lists(costs, min_size=1, max_size=60), st.lists(costs, min_size=1, max_size=60), st.integers(1, 120))
def test_no_waiting_flow_gets_ahead_by_more_than_the_two_highest_costs(
    left: list[int], right: list[int], most: int
) -> None:
    cost_of = {**dict(enumerate(left)), **{1000 + number: cost for number, cost in enumerate(right)}}
    queue = flow_queue(
        *(queued(number, "left" if number < 1000 else "right", tokens=cost) for number, cost in cost_of.items())
    )
    served = {"left": 0, "right": 0}
    for number in released(queue, most):
        flow = "left" if number < 1000 else "right"
        served[flow] += 1 + cost_of[number]
        left_waits, right_waits = waiting_flows(queue)
        if left_waits and right_waits:
            assert abs(served["left"] - served["right"]) <= max(left) + max(right) + 2


def waiting_flows(queue: FlowQueue) -> tuple[bool, bool]:
    flows = {request.flow for _, band in queue.bands() for request in band.waiting}
    return "left" in flows, "right" in flows


class AnyQueue(RuleBasedStateMachine):
    """Requests are added, removed, released and expire in any order. Each is returned once, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = Bounds(requests=6, body_bytes=120)
        self.queue: FlowQueue = FlowQueue(self.bounds)
        self.waiting: dict[int, Numbered] = {}
        self.now_s = 0.0
        self.count = 0

    @rule(
        flow=st.sampled_from("abc"), priority=st.sampled_from(PRIORITIES), tokens=costs, body_bytes=st.integers(0, 50)
    )
    def add(self, flow: str, priority: int, tokens: int, body_bytes: int) -> None:
        self.count += 1
        new = queued(self.count, flow, priority, tokens=tokens, body_bytes=body_bytes, expires_s=self.now_s + 10.0)
        same = self._same_criticality(priority)
        kept = [request for request in same if request.priority >= priority]
        displaced = added(self.queue, new)
        if displaced is None:
            assert not self._fit([*kept, new])
            return
        gone = [self.waiting.pop(number) for number in displaced]
        assert all(request in same and request.priority < priority for request in gone)
        assert bool(gone) is not self._fit([*same, new])
        self.waiting[self.count] = new
        assert self._fit(self._same_criticality(priority))

    def _same_criticality(self, priority: int) -> list[Numbered]:
        criticality = Criticality.of_priority(priority)
        return [
            request for request in self.waiting.values() if Criticality.of_priority(request.priority) is criticality
        ]

    def _fit(self, requests: list[Numbered]) -> bool:
        total_bytes = sum(request.body_bytes for request in requests)
        return len(requests) <= self.bounds.requests and total_bytes <= self.bounds.body_bytes

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.waiting:
            self.queue.remove(self.waiting.pop(data.draw(st.sampled_from(sorted(self.waiting)))))

    @rule(most=st.integers(0, 4), barred=st.frozensets(st.integers(1, 30), max_size=3))
    def release(self, most: int, barred: frozenset[int]) -> None:
        for number in released(self.queue, most, barred):
            assert number not in barred
            gone = self.waiting.pop(number)
            earlier = [
                request for request in self.waiting.values() if request.number < number and request.flow == gone.flow
            ]
            assert all(request.priority != gone.priority for request in earlier)
            higher = [request for request in self.waiting.values() if request.priority > gone.priority]
            first = {(request.priority, request.flow): request.number for request in reversed(higher)}
            assert barred >= set(first.values()), "a request of a higher priority that may go still waits"

    @rule(seconds=st.floats(0, 20))
    def expire(self, seconds: float) -> None:
        self.now_s += seconds
        expired = [number for number, request in self.waiting.items() if request.expires_s <= self.now_s]
        assert sorted(map(number_of, self.queue.expired(self.now_s))) == expired
        for number in expired:
            del self.waiting[number]

    @invariant()
    def the_counts_are_correct(self) -> None:
        assert len(self.queue) == len(self.waiting)
        bands = {priority: set(band.waiting) for priority, band in self.queue.bands()}
        priorities = sorted({request.priority for request in self.waiting.values()}, reverse=True)
        assert list(bands) == priorities
        for priority, band in self.queue.bands():
            same = {request for request in self.waiting.values() if request.priority == priority}
            assert (bands[priority], band.body_bytes) == (same, sum(request.body_bytes for request in same))

    def teardown(self) -> None:
        assert sorted(released(self.queue)) == sorted(self.waiting)


TestAnyQueue = AnyQueue.TestCase
TestAnyQueue.settings = settings(max_examples=150, stateful_step_count=30)
