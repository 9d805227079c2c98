"""The queue of flow control: order, fairness, bounds and expiry."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.flowcontrol.queue import IDLE_FLOWS, ORDER, QUEUEING_LIMITS, Bounds, FlowQueue, QueuedRequest
from picker.resources.inference import Criticality

STANDARD = Criticality.STANDARD
WIDE_BOUNDS = Bounds(requests=10_000, body_bytes=1 << 30)


@dataclass(frozen=True, slots=True, eq=False)
class Numbered(QueuedRequest):
    """A queued request that a test identifies by its number."""

    number: int


def queued(
    number: int,
    flow: str = "a",
    criticality: Criticality = STANDARD,
    *,
    tokens: int = 100,
    body_bytes: int = 10,
    expires_s: float = 60.0,
) -> Numbered:
    return Numbered("pool", criticality, flow, tokens, body_bytes, None, expires_s, 60.0, lambda _: None, number)


def flow_queue(*waiting: Numbered, bounds: Bounds = WIDE_BOUNDS) -> FlowQueue:
    queue = FlowQueue(bounds)
    for request in waiting:
        assert queue.add(request) is None
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


def test_more_critical_requests_are_released_first() -> None:
    waiting = [queued(number, criticality=criticality) for number, criticality in enumerate(reversed(ORDER))]
    assert released(flow_queue(*waiting)) == [2, 1, 0]


def test_less_critical_requests_wait_behind_a_more_critical_one() -> None:
    """Even if there is capacity for them."""
    queue = flow_queue(queued(1, criticality=Criticality.SHEDDABLE), queued(2, criticality=Criticality.CRITICAL))
    assert list(queue.release(lambda criticality: criticality is Criticality.SHEDDABLE, lambda _: True)) == []
    assert len(queue) == 2


def test_less_critical_requests_need_more_capacity() -> None:
    """`release` relies on it: without capacity for a critical request there is none for others."""
    limits = [QUEUEING_LIMITS[criticality] for criticality in ORDER]
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
    assert queue.add(queued(9, "one", tokens=1000)) is None
    assert released(queue, most=3) == [1, 2, 3]


def test_an_idle_flow_collects_no_credit() -> None:
    """Otherwise it would block the others until it has got as many tokens as they got before."""
    queue = flow_queue(*(queued(number, "old") for number in range(100)))
    assert len(released(queue, most=50)) == 50
    for number in range(100, 120):
        assert queue.add(queued(number, "new")) is None
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
    assert (len(queue), queue.waiting_bytes(STANDARD)) == (0, 0)


@pytest.mark.parametrize("bounds", [Bounds(requests=2, body_bytes=1000), Bounds(requests=100, body_bytes=25)])
def test_a_request_beyond_the_bounds_is_rejected(bounds: Bounds) -> None:
    """Each criticality has its own bounds, so many batch requests do not block others."""
    queue = flow_queue(queued(1), queued(2), bounds=bounds)
    rejection = queue.add(queued(3))
    assert isinstance(rejection, Rejection)
    assert rejection.reason is RejectReason.QUEUE_FULL
    assert "Standard" in rejection.message
    assert queue.add(queued(4, criticality=Criticality.SHEDDABLE)) is None
    assert sorted(released(queue)) == [1, 2, 4]


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
    assert queue.add(queued(4)) is None


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
    band = queue._bands[STANDARD]
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
    flows = {request.flow for request in queue._bands[STANDARD].waiting}
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

    @rule(flow=st.sampled_from("abc"), criticality=st.sampled_from(ORDER), tokens=costs, body_bytes=st.integers(0, 50))
    def add(self, flow: str, criticality: Criticality, tokens: int, body_bytes: int) -> None:
        self.count += 1
        new = queued(self.count, flow, criticality, tokens=tokens, body_bytes=body_bytes, expires_s=self.now_s + 10.0)
        same = [request for request in self.waiting.values() if request.criticality is criticality]
        fits = len(same) < 6 and sum(request.body_bytes for request in same) + body_bytes <= 120
        assert (self.queue.add(new) is None) is fits
        if fits:
            self.waiting[self.count] = new

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
            assert all(request.criticality is not gone.criticality for request in earlier)
            more_critical = [
                request
                for request in self.waiting.values()
                if ORDER.index(request.criticality) < ORDER.index(gone.criticality)
            ]
            first = {(request.criticality, request.flow): request.number for request in reversed(more_critical)}
            assert barred >= set(first.values()), "a more critical request that may go still waits"

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
        for criticality in ORDER:
            same = [request for request in self.waiting.values() if request.criticality is criticality]
            assert self.queue.waiting(criticality) == len(same)
            assert self.queue.waiting_bytes(criticality) == sum(request.body_bytes for request in same)

    def teardown(self) -> None:
        assert sorted(released(self.queue)) == sorted(self.waiting)


TestAnyQueue = AnyQueue.TestCase
TestAnyQueue.settings = settings(max_examples=150, stateful_step_count=30)
