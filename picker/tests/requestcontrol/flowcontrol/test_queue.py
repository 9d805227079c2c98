"""What waits while all servers are full: order, fairness, bounds."""

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
PRESSURE_STARTS_AT = Bounds(requests=10_000, body_bytes=1 << 30)


@dataclass(frozen=True, slots=True, eq=False)
class Numbered(QueuedRequest):
    """A request that a test recognises by its number."""

    number: int


def held(
    item: int,
    flow: str = "a",
    criticality: Criticality = STANDARD,
    *,
    tokens: int = 100,
    body_bytes: int = 10,
    expires_s: float = 60.0,
) -> Numbered:
    return Numbered("pool", criticality, flow, tokens, body_bytes, None, expires_s, lambda _: None, item)


def queue(*waiting: Numbered, bounds: Bounds = PRESSURE_STARTS_AT) -> FlowQueue:
    made = FlowQueue(bounds)
    for each in waiting:
        assert made.add(each) is None
    return made


def number_of(request: QueuedRequest) -> int:
    assert isinstance(request, Numbered)
    return request.number


def released(of: FlowQueue, most: int = 1 << 30, barred: frozenset[int] = frozenset()) -> list[int]:
    """The numbers of what is released with capacity for `most`, and none for those that are `barred`."""
    out: list[int] = []
    for request in of.release(lambda _: len(out) < most, lambda request: number_of(request) not in barred):
        out.append(number_of(request))  # noqa: PERF401 - the capacity depends on what was released before
    return out


def test_the_more_critical_go_first() -> None:
    waiting = [held(number, criticality=each) for number, each in enumerate(reversed(ORDER))]
    assert released(queue(*waiting)) == [2, 1, 0]


def test_less_critical_ones_wait_while_a_more_critical_one_has_no_room() -> None:
    """Even where there would be room for them."""
    waiting = queue(held(1, criticality=Criticality.SHEDDABLE), held(2, criticality=Criticality.CRITICAL))
    assert list(waiting.release(lambda each: each is Criticality.SHEDDABLE, lambda _: True)) == []
    assert len(waiting) == 2


def test_less_critical_ones_need_more_room() -> None:
    """The order of the queue relies on it: where there is none for a critical one, there is none for others."""
    rooms = [QUEUEING_LIMITS[each] for each in ORDER]
    assert rooms == sorted(rooms, key=lambda room: (-room.wait_s, -room.kv_cache_usage))


def test_a_flow_is_served_in_the_order_of_its_coming() -> None:
    assert released(queue(*(held(number) for number in range(5)))) == [0, 1, 2, 3, 4]


def test_a_client_that_sends_much_does_not_delay_one_that_sends_little() -> None:
    many = [held(number, "many") for number in range(100)]
    assert released(queue(*many, held(100, "few"), held(101, "few")), most=4) == [0, 100, 1, 101]


def test_turns_are_by_tokens_and_not_by_requests() -> None:
    """One long prompt for every ten short ones."""
    dear = [held(number, "dear", tokens=999) for number in range(50)]
    cheap = [held(100 + number, "cheap", tokens=99) for number in range(50)]
    flows = Counter("dear" if item < 100 else "cheap" for item in released(queue(*dear, *cheap), most=44))
    assert flows == {"dear": 4, "cheap": 40}


def test_a_flow_that_was_served_does_not_come_back_ahead_of_those_that_waited() -> None:
    """A client that asks one thing after the other has a turn a round, too."""
    waiting = queue(held(0, "one", tokens=1000), *(held(number, f"other {number}") for number in range(1, 4)))
    assert released(waiting, most=1) == [0]
    assert waiting.add(held(9, "one", tokens=1000)) is None
    assert released(waiting, most=3) == [1, 2, 3]


def test_a_flow_that_comes_anew_has_nothing_saved() -> None:
    """It would keep all others waiting until it has caught up with what they had while it was away."""
    waiting = queue(*(held(number, "old") for number in range(100)))
    assert len(released(waiting, most=50)) == 50
    for number in range(100, 120):
        assert waiting.add(held(number, "new")) is None
    assert sum(item >= 100 for item in released(waiting, most=10)) in (4, 5, 6)


def test_a_flow_that_may_not_go_is_passed_over_and_keeps_its_place() -> None:
    waiting = queue(held(0, "barred"), held(1, "barred"), held(2, "free"), held(3, "free"))
    assert released(waiting, barred=frozenset({0})) == [2, 3]
    assert released(waiting) == [0, 1]


def test_who_has_left_is_not_served() -> None:
    first, second = held(1), held(2)
    waiting = queue(first, second)
    waiting.remove(first)
    waiting.remove(first)
    assert released(waiting) == [2]
    waiting.remove(second)
    assert (len(waiting), waiting.waiting_bytes(STANDARD)) == (0, 0)


@pytest.mark.parametrize("bounds", [Bounds(requests=2, body_bytes=1000), Bounds(requests=100, body_bytes=25)])
def test_more_than_the_bounds_allow_is_refused_by_name(bounds: Bounds) -> None:
    """Each criticality has bounds of its own: a flood of batch requests keeps no other out."""
    waiting = queue(held(1), held(2), bounds=bounds)
    refusal = waiting.add(held(3))
    assert isinstance(refusal, Rejection)
    assert refusal.reason is RejectReason.QUEUE_FULL
    assert "Standard" in refusal.message
    assert waiting.add(held(4, criticality=Criticality.SHEDDABLE)) is None
    assert sorted(released(waiting)) == [1, 2, 4]


def test_what_has_waited_to_its_end_comes_out_once() -> None:
    waiting = queue(*(held(number, f"flow {number % 2}", expires_s=60.0 + number) for number in range(4)))
    assert list(map(number_of, waiting.expired(59.9))) == []
    assert list(map(number_of, waiting.expired(61.0))) == [0, 1]
    assert list(map(number_of, waiting.expired(61.0))) == []
    assert released(waiting) == [2, 3]


def test_a_time_limit_that_goes_back_is_an_error() -> None:
    waiting = queue(held(1, expires_s=60.0))
    with pytest.raises(ValueError, match=r"expires at 59\.0 s"):
        waiting.add(held(2, expires_s=59.0))


def test_flows_that_clients_make_up_do_not_pile_up() -> None:
    """With one that waits all the time, so that the band is never empty, and others that come and leave or are
    served."""
    stays = held(0, "stays", tokens=1 << 20)
    waiting = queue(stays, held(1, "served"))
    assert released(waiting, most=1) == [0]
    for number in range(10 * IDLE_FLOWS):
        passing = held(number, f"flow {number}")
        waiting.add(passing)
        if number % 2:
            waiting.remove(passing)
        else:
            assert len(released(waiting, most=1)) == 1
    band = waiting._bands[STANDARD]
    assert len(band._flows) <= IDLE_FLOWS + 3
    assert len(band._turns) <= IDLE_FLOWS + 3


costs = st.integers(0, 5000)


@given(st.lists(costs, min_size=1, max_size=60), st.lists(costs, min_size=1, max_size=60), st.integers(1, 120))
def test_while_two_flows_wait_neither_gets_ahead_by_more_than_their_dearest_requests(
    left: list[int], right: list[int], most: int
) -> None:
    cost_of = {**dict(enumerate(left)), **{1000 + number: cost for number, cost in enumerate(right)}}
    waiting = queue(*(held(item, "left" if item < 1000 else "right", tokens=cost) for item, cost in cost_of.items()))
    served = {"left": 0, "right": 0}
    for item in released(waiting, most):
        flow = "left" if item < 1000 else "right"
        served[flow] += 1 + cost_of[item]
        left_waits, right_waits = waiting_flows(waiting)
        if left_waits and right_waits:
            assert abs(served["left"] - served["right"]) <= max(left) + max(right) + 2


def waiting_flows(of: FlowQueue) -> tuple[bool, bool]:
    flows = {each.flow for each in of._bands[STANDARD].waiting}
    return "left" in flows, "right" in flows


class AnyQueue(RuleBasedStateMachine):
    """Requests come, leave, go and expire in any order; each comes out once, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = Bounds(requests=6, body_bytes=120)
        self.queue: FlowQueue = FlowQueue(self.bounds)
        self.waiting: dict[int, Numbered] = {}
        self.now_s = 0.0
        self.count = 0

    @rule(flow=st.sampled_from("abc"), criticality=st.sampled_from(ORDER), tokens=costs, body_bytes=st.integers(0, 50))
    def comes(self, flow: str, criticality: Criticality, tokens: int, body_bytes: int) -> None:
        self.count += 1
        new = held(self.count, flow, criticality, tokens=tokens, body_bytes=body_bytes, expires_s=self.now_s + 10.0)
        same = [each for each in self.waiting.values() if each.criticality is criticality]
        fits = len(same) < 6 and sum(each.body_bytes for each in same) + body_bytes <= 120
        assert (self.queue.add(new) is None) is fits
        if fits:
            self.waiting[self.count] = new

    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        if self.waiting:
            self.queue.remove(self.waiting.pop(data.draw(st.sampled_from(sorted(self.waiting)))))

    @rule(most=st.integers(0, 4), barred=st.frozensets(st.integers(1, 30), max_size=3))
    def some_go(self, most: int, barred: frozenset[int]) -> None:
        for item in released(self.queue, most, barred):
            assert item not in barred
            gone = self.waiting.pop(item)
            before = [each for number, each in self.waiting.items() if number < item and each.flow == gone.flow]
            assert all(each.criticality is not gone.criticality for each in before)
            more = [
                each for each in self.waiting.values() if ORDER.index(each.criticality) < ORDER.index(gone.criticality)
            ]
            first = {(each.criticality, each.flow): each.number for each in reversed(more)}
            assert barred >= set(first.values()), "a more critical one that may go still waits"

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        over = [item for item, each in self.waiting.items() if each.expires_s <= self.now_s]
        assert sorted(map(number_of, self.queue.expired(self.now_s))) == over
        for item in over:
            del self.waiting[item]

    @invariant()
    def the_counts_are_true(self) -> None:
        assert len(self.queue) == len(self.waiting)
        for each in ORDER:
            mine = [held for held in self.waiting.values() if held.criticality is each]
            assert self.queue.waiting(each) == len(mine)
            assert self.queue.waiting_bytes(each) == sum(held.body_bytes for held in mine)

    def teardown(self) -> None:
        assert sorted(released(self.queue)) == sorted(self.waiting)


TestAnyQueue = AnyQueue.TestCase
TestAnyQueue.settings = settings(max_examples=150, stateful_step_count=30)
