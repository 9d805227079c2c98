"""Flow control: requests that are queued while all servers of their pool are full, and exchanges that wait."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from exchange_conversation import FakeDirector, FakeQueue, body, headers, response
from fleet import endpoint, scrape
from picker.endpoints.endpoint import MAX_UNSCRAPED_BURST, Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.messages import (
    Body,
    BodyMode,
    BodyReply,
    DuplexBodyReply,
    ExtendTimeout,
    HeadersReply,
    ImmediateReply,
    Phase,
    Reply,
    Trailers,
    TrailersReply,
)
from picker.extproc.request_phase import EXTRA_MESSAGE_TIMEOUT_S
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.apis import COMPLETIONS, NO_WORK, Api
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.flowcontrol.capacity import saturation
from picker.requestcontrol.flowcontrol.controller import FlowControl
from picker.requestcontrol.flowcontrol.queue import Bounds, QueuedRequest
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import read_body
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import (
    AppProtocol,
    Criticality,
    InferenceModel,
    InferenceObjective,
    InferencePool,
    PoolSettings,
    RoutingStrategy,
    TargetModel,
)
from picker.resources.names import ObjectName, PoolName
from picker.scheduling.latency_slo import LatencySlo
from picker.scheduling.scheduler import Scheduler

POOL = PoolName("inference.networking.k8s.io", "default", "qwen")
TIME_LIMIT_S = 60.0
FULL_S = 3.0
"""Of prompts in flight on a full endpoint, at the speed of the servers in these tests."""


@dataclass
class Fleet:
    """A pool with flow control, and a clock that tests set."""

    endpoints: list[Endpoint]
    bounds: Bounds = field(default_factory=lambda: Bounds(requests=100, body_bytes=1 << 20))
    now_s: float = 100.0
    soon: list[Callable[[], None]] = field(default_factory=list)
    admitted: list[str] = field(default_factory=list)
    """The requests that left the queue, in order, with the reason if they were rejected."""

    def __post_init__(self) -> None:
        self.tracker = InFlightTracker()
        self.director = Director(self.tracker, self.clock, Random(1), unknown_models=True)
        self.serve()
        self.control = FlowControl(self.director, self.clock, self.soon.append, self.bounds, TIME_LIMIT_S)
        self.tracker.on_freed = self.control.freed
        self.control.on_outcome = lambda pool, priority, outcome: self.outcomes.append((pool, priority, outcome.value))
        self.outcomes: list[tuple[str, int, str]] = []

    def serve(self, **settings: Any) -> None:
        """Serves the pool, with `settings` of its own."""
        models = {
            level.value: InferenceModel(
                ObjectName("default", level.value), POOL, level.value, level, (TargetModel(level.value, 1),), None
            )
            for level in Criticality
        }
        objectives = {name: InferenceObjective(ObjectName("default", name), POOL, int(name)) for name in ("-2", "9")}
        pool = InferencePool(
            POOL, {"app": "qwen"}, (8000,), None, AppProtocol.HTTP, RoutingStrategy.DEFAULT, PoolSettings(**settings)
        )
        prefixes = PrefixIndex(BLOCK_TOKENS)
        scheduler = Scheduler(RoutingStrategy.DEFAULT, prefixes, Random(1))
        self.director.serve(
            [ServedPool(pool, models, self.endpoints, scheduler, prefixes, objectives=objectives)], POOL
        )

    def clock(self) -> float:
        return self.now_s

    def fill(self) -> list[InFlightRequest]:
        """Schedules a prompt on every endpoint that exceeds all queueing limits. Returns the requests."""
        filling: list[InFlightRequest] = []
        for server in self.endpoints:
            server.speed.learn(0.2, 1.0, 0.0)
            request = self.director.assign(
                pick_request("Critical", tokens=int(FULL_S * 1000), subset=frozenset({server.address}))
            )
            assert isinstance(request, InFlightRequest)
            filling.append(request)
        return filling

    def join(self, name: str, criticality: str = "Standard", **more: object) -> QueuedRequest | Rejection | None:
        def on_admitted(rejection: Rejection | None) -> None:
            self.admitted.append(name if rejection is None else f"{name}: {rejection.reason}")

        return self.control.join(pick_request(criticality, **more), on_admitted)  # type: ignore[arg-type]

    def run_soon(self) -> None:
        """Runs the functions that were scheduled with `soon`."""
        due, self.soon[:] = list(self.soon), []
        for function in due:
            function()

    @property
    def queued(self) -> int:
        return sum(stats.requests for stats in self.control.waiting())


def pick_request(
    model: str,
    *,
    flow: str | None = None,
    tokens: int = 10,
    subset: frozenset[str] | None = None,
    max_tokens: int = 10,
    api: Api = COMPLETIONS,
) -> PickRequest:
    data = json.dumps({"model": model, "prompt": [1] * tokens, "max_tokens": max_tokens}).encode()
    read = read_body(data, True, api)
    assert not isinstance(read, Rejection)
    return PickRequest(None, read, subset, model, flow, RequestInfo(body_bytes=len(data)))


def full(*endpoints: Endpoint, bounds: Bounds | None = None) -> tuple[Fleet, list[InFlightRequest]]:
    fleet = Fleet(list(endpoints) or [endpoint(1)], bounds or Bounds(requests=100, body_bytes=1 << 20))
    return fleet, fleet.fill()


def test_with_capacity_no_request_is_queued() -> None:
    fleet = Fleet([endpoint(1)])
    assert [fleet.join(level, level) for level in Criticality] == [None, None, None]


def test_a_request_waits_until_another_has_ended() -> None:
    """It is released after the event of that end, once for all requests that ended together."""
    fleet, filling = full(endpoint(1), endpoint(2))
    fleet.join("queued")
    assert fleet.queued == 1
    for request in filling:
        fleet.director.ended(request)
    assert fleet.admitted == []
    assert len(fleet.soon) == 1
    fleet.run_soon()
    assert (fleet.admitted, fleet.queued) == (["queued"], 0)


def test_a_computed_prompt_frees_capacity_before_its_response_ends() -> None:
    fleet, [filling] = full()
    fleet.join("queued")
    only = filling.endpoint
    scrape(fleet.tracker, only, fleet.now_s)
    scrape(fleet.tracker, only, fleet.now_s, first_tokens=1, seconds=0.1)
    fleet.run_soon()
    assert fleet.admitted == ["queued"]


def test_capacity_that_only_a_scrape_reports_is_found_by_the_tick() -> None:
    fleet = Fleet([endpoint(1, queue_depth=20)], now_s=0.0)
    fleet.join("queued")
    fleet.control.tick()
    assert fleet.admitted == []
    fleet.endpoints[0].metrics = endpoint(1).metrics
    fleet.control.tick()
    assert fleet.admitted == ["queued"]


def test_a_burst_between_two_scrapes_is_bounded() -> None:
    """The next scrape shows whether the first requests have begun to queue."""
    fleet = Fleet([endpoint(1)], now_s=0.0)
    sent = [fleet.director.assign(pick_request("Standard")) for _ in range(MAX_UNSCRAPED_BURST)]
    assert len(sent) == MAX_UNSCRAPED_BURST
    fleet.join("queued")
    assert fleet.queued == 1
    fleet.endpoints[0].metrics = endpoint(
        1, running=MAX_UNSCRAPED_BURST, in_flight_at_scrape=MAX_UNSCRAPED_BURST
    ).metrics
    fleet.control.tick()
    assert fleet.admitted == ["queued"]


def test_only_as_many_requests_are_released_as_there_is_capacity_for() -> None:
    """Each is counted before the next is considered."""
    fleet, [filling] = full()

    def assign(_: Rejection | None) -> None:
        fleet.admitted.append("gone")
        assert isinstance(fleet.director.assign(pick_request("Standard", tokens=1500)), InFlightRequest)

    for _ in range(3):
        fleet.control.join(pick_request("Standard"), assign)
    fleet.director.ended(filling)
    fleet.run_soon()
    assert (fleet.admitted, fleet.queued) == (["gone"], 2)


def test_a_new_request_does_not_overtake_waiting_ones_of_its_criticality() -> None:
    """Although there is capacity. None of them waits for a tick."""
    fleet, [filling] = full()
    fleet.join("first")
    fleet.director.ended(filling)
    assert fleet.join("second") is not None
    assert fleet.join("critical", "Critical") is None
    fleet.run_soon()
    assert fleet.admitted == ["first", "second"]


def test_a_request_that_computes_nothing_is_not_queued() -> None:
    fleet, _ = full()
    assert fleet.join("tokenize", api=NO_WORK) is None
    assert fleet.join("embedding", api=Api(("prompt",), output_tokens=0)) is not None


def test_a_request_with_an_output_limit_of_0_is_queued() -> None:
    fleet, _ = full()
    assert fleet.join("standard", max_tokens=0) is not None


def test_a_request_whose_subset_is_full_does_not_block_other_flows() -> None:
    fleet, filling = full(endpoint(1), endpoint(2))
    fleet.join("elsewhere", flow="a", subset=frozenset({fleet.endpoints[0].address}))
    fleet.join("anywhere", flow="b")
    fleet.director.ended(filling[1])
    fleet.run_soon()
    assert fleet.admitted == ["anywhere"]
    fleet.director.ended(filling[0])
    fleet.run_soon()
    assert fleet.admitted == ["anywhere", "elsewhere"]


@pytest.mark.parametrize(
    ("criticality", "outcome"),
    [("Critical", "one"), ("Standard", "one: queue-timeout"), ("Sheddable", "one: queue-timeout")],
)
def test_an_expired_request_is_rejected_unless_it_is_critical(criticality: str, outcome: str) -> None:
    fleet, _ = full()
    fleet.join("one", criticality)
    fleet.now_s += TIME_LIMIT_S - 1
    fleet.control.tick()
    assert fleet.admitted == []
    fleet.now_s += 1
    fleet.control.tick()
    assert (fleet.admitted, fleet.queued) == ([outcome], 0)


def test_a_request_beyond_the_bounds_is_rejected_unless_it_is_critical() -> None:
    fleet, _ = full(bounds=Bounds(requests=1, body_bytes=1 << 20))
    for level in Criticality:
        fleet.join("queued", level)
    rejection = fleet.join("more")
    assert isinstance(rejection, Rejection)
    assert (rejection.status, rejection.reason) == (429, "queue-full")
    assert fleet.join("more", "Critical") is None


@pytest.mark.parametrize(
    ("lower", "higher", "outcome"), [("-2", "Sheddable", "low: queue-full"), ("Critical", "9", "low")]
)
def test_a_displaced_request_is_rejected_unless_it_is_critical(lower: str, higher: str, outcome: str) -> None:
    fleet, _ = full(bounds=Bounds(requests=1, body_bytes=1 << 20))
    fleet.join("low", lower)
    assert isinstance(fleet.join("high", higher), QueuedRequest)
    assert (fleet.admitted, fleet.queued) == ([outcome], 1)


def test_a_request_of_a_higher_priority_does_not_wait_behind_lower_ones() -> None:
    """They are all Critical."""
    fleet, [filling] = full()
    fleet.join("lower", "Critical")
    fleet.director.ended(filling)
    assert fleet.join("higher", "9") is None


def test_a_request_whose_client_disconnects_leaves_the_queue() -> None:
    fleet, [filling] = full()
    queued = fleet.join("queued")
    assert queued is not None
    assert not isinstance(queued, Rejection)
    fleet.control.leave(queued)
    fleet.director.ended(filling)
    fleet.run_soon()
    assert (fleet.admitted, fleet.queued) == ([], 0)


def test_each_request_leaves_with_one_outcome() -> None:
    fleet, [filling] = full(bounds=Bounds(requests=1, body_bytes=1 << 20))
    fleet.join("released")
    assert isinstance(fleet.join("rejected"), Rejection)
    fleet.join("displaced", "-2")
    fleet.join("expired", "Sheddable")
    critical = fleet.join("left", "Critical")
    assert isinstance(critical, QueuedRequest)
    fleet.control.leave(critical)
    fleet.control.leave(critical)
    assert fleet.join("sent on", "Critical") is not None
    assert fleet.join("not queued", "Critical") is None
    fleet.director.ended(filling)
    fleet.run_soon()
    expected = [
        (0, "RejectedCapacity"), (-2, "EvictedOther"), (1, "EvictedContextCancelled"), (1, "Dispatched"),
        (1, "Dispatched"), (0, "Dispatched"), (-1, "Dispatched"),
    ]  # fmt: skip
    assert fleet.outcomes == [("default/qwen", priority, outcome) for priority, outcome in expected]


def test_a_request_whose_time_ran_out_has_another_outcome_than_a_critical_one() -> None:
    fleet, _ = full()
    fleet.join("one")
    fleet.join("two", "Critical")
    fleet.now_s += TIME_LIMIT_S
    fleet.control.tick()
    assert sorted(fleet.outcomes) == [("default/qwen", 0, "EvictedTTL"), ("default/qwen", 1, "Dispatched")]


def test_saturation_is_1_where_requests_are_queued() -> None:
    fleet = Fleet([endpoint(1), endpoint(2)], now_s=0.0)
    assert saturation(fleet.endpoints, 0.0) == 0.0
    fleet.endpoints[0].in_flight.requests = MAX_UNSCRAPED_BURST
    assert saturation(fleet.endpoints, 0.0) == 0.0, "the other has room"
    fleet.endpoints[1].in_flight.requests = MAX_UNSCRAPED_BURST
    assert saturation(fleet.endpoints, 0.0) == 1.0
    assert fleet.join("queued") is not None
    assert saturation((), 0.0) == 1.0


def test_without_endpoints_no_request_waits() -> None:
    """The director rejects them, also those that have waited."""
    fleet, _ = full()
    fleet.join("queued")
    fleet.endpoints.clear()
    fleet.control.tick()
    assert fleet.admitted == ["queued"]
    assert fleet.join("more") is None


def test_a_deleted_pool_releases_its_requests() -> None:
    fleet, _ = full()
    fleet.join("queued")
    fleet.director.serve([], None)
    fleet.control.tick()
    assert (fleet.admitted, fleet.queued) == (["queued"], 0)


def test_a_picker_that_stops_queues_no_requests() -> None:
    fleet, _ = full()
    fleet.join("queued")
    fleet.control.stop()
    assert fleet.admitted == ["queued"]
    assert fleet.join("more") is None


class QueueingExchange:
    """An exchange whose request is queued, and its replies after it left the queue."""

    def __init__(
        self, mode: BodyMode = BodyMode.BUFFERED, served_model: str | None = None, slo_ttft_ms: str | None = None
    ) -> None:
        self.director = FakeDirector(served_model=served_model)
        self.queue = FakeQueue()
        self.exchange = Exchange(self.director, Limits(), queue=self.queue)
        self.exchange.on_admitted(self._resume)
        self.mode = mode
        self.exchange.receive(headers(mode=mode, x_llm_d_slo_ttft_ms=slo_ttft_ms or "none"))
        self.replies: list[Reply] = []

    def _resume(self, rejection: Rejection | None) -> None:
        self.replies += self.exchange.resume(rejection)

    def admit(self, rejection: Rejection | None = None) -> list[Reply]:
        self.queue.admit(rejection)
        return self.replies


def test_a_queued_request_extends_the_message_timeout_and_gets_its_pick_later() -> None:
    queueing = QueueingExchange()
    assert queueing.exchange.receive(body()) == [ExtendTimeout(TIME_LIMIT_S + EXTRA_MESSAGE_TIMEOUT_S)]
    assert (queueing.director.requests, queueing.exchange.deadline_s, queueing.exchange.settled) == ([], None, False)
    [reply] = queueing.admit()
    assert isinstance(reply, BodyReply)
    assert reply.changes.destination is not None
    assert len(queueing.director.requests) == 1


def test_the_model_of_a_queued_request_is_renamed() -> None:
    queueing = QueueingExchange(served_model="m-v2")
    queueing.exchange.receive(body())
    [reply] = queueing.admit()
    assert isinstance(reply, BodyReply)
    assert reply.data is not None
    assert json.loads(reply.data)["model"] == "m-v2"


@pytest.mark.parametrize("with_trailers", [True, False])
def test_a_queued_full_duplex_body_is_returned_whole_after_its_pick(with_trailers: bool) -> None:
    """Its trailers come last. A repeated end of the stream is ignored meanwhile."""
    queueing = QueueingExchange(BodyMode.FULL_DUPLEX_STREAMED)
    replies = queueing.exchange.receive(body(end=not with_trailers))
    if with_trailers:
        replies += queueing.exchange.receive(Trailers(Phase.REQUEST))
    else:
        assert queueing.exchange.receive(Body(Phase.REQUEST, b"", True)) == []
    assert [type(reply) for reply in replies] == [ExtendTimeout]
    first, piece, *rest = queueing.admit()
    assert isinstance(first, HeadersReply)
    assert isinstance(piece, DuplexBodyReply)
    assert (piece.data, piece.end_of_stream) == (body().data, not with_trailers)
    assert rest == ([TrailersReply(Phase.REQUEST)] if with_trailers else [])


def test_the_time_in_the_queue_counts_as_latency() -> None:
    queueing = QueueingExchange(slo_ttft_ms="1500")
    queueing.exchange.receive(body())
    queueing.queue.now_s = 0.6
    queueing.admit()
    assert queueing.director.requests[0].slo == LatencySlo(0.9)


def test_a_queued_request_may_be_rejected() -> None:
    queueing = QueueingExchange()
    queueing.exchange.receive(body())
    [reply] = queueing.admit(Rejection(RejectReason.QUEUE_TIMEOUT, "No."))
    assert isinstance(reply, ImmediateReply)
    assert (reply.status, queueing.director.requests, len(queueing.director.rejections)) == (429, [], 1)


def test_a_request_that_does_not_fit_the_queue_is_rejected_at_once() -> None:
    queueing = QueueingExchange()
    queueing.queue.rejection = Rejection(RejectReason.QUEUE_FULL, "No.")
    [reply] = queueing.exchange.receive(body())
    assert isinstance(reply, ImmediateReply)
    assert (reply.status, len(queueing.director.rejections)) == (429, 1)


@pytest.mark.parametrize("ends", ["closes", "proxy answers", "fails"])
def test_a_queued_request_that_ends_leaves_the_queue_once(ends: str) -> None:
    """Its client disconnects, the proxy answers it, or the picker fails. A later admission has no effect."""
    queueing = QueueingExchange()
    queueing.exchange.receive(body())
    if ends == "proxy answers":
        queueing.exchange.receive(response())
    elif ends == "fails":
        assert [type(reply) for reply in queueing.exchange.fail()] == [ImmediateReply]
    queueing.exchange.close()
    queueing.exchange.close()
    assert queueing.queue.left == 1
    queueing.queue.admit()
    assert (queueing.replies, queueing.director.requests) == ([], [])


def test_a_director_that_fails_after_the_queue_is_a_500() -> None:
    queueing = QueueingExchange()
    queueing.exchange.receive(body())
    queueing.director.fails = RuntimeError("boom")
    with pytest.raises(RuntimeError):
        queueing.admit()
    [reply] = queueing.exchange.fail()
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 500


def test_a_pool_may_queue_requests_that_the_picker_does_not() -> None:
    fleet, [filling] = full()
    fleet.control = FlowControl(
        fleet.director, fleet.clock, fleet.soon.append, fleet.bounds, TIME_LIMIT_S, enabled=False
    )
    fleet.tracker.on_freed = fleet.control.freed
    assert fleet.join("not queued") is None
    fleet.serve(flow_control=True)
    fleet.join("queued")
    assert fleet.queued == 1
    fleet.director.ended(filling)
    fleet.run_soon()
    assert fleet.admitted == ["queued"]


def test_a_pool_that_ceases_to_queue_loses_no_request() -> None:
    """Waiting requests are scheduled, and requests in flight stay counted."""
    fleet, [filling] = full()
    fleet.join("one")
    fleet.join("other", "Sheddable")
    fleet.serve(flow_control=False)
    assert fleet.join("not queued") is None
    assert filling.endpoint.in_flight.requests == 1
    fleet.control.tick()
    assert (fleet.admitted, fleet.queued) == (["one", "other"], 0)


def test_a_changed_time_limit_applies_to_requests_that_arrive_later() -> None:
    """Those that wait keep their limit, which the proxy knows."""
    fleet, _ = full()
    fleet.join("before")
    fleet.serve(flow_control_time_limit_s=5.0)
    queued = fleet.join("after")
    assert isinstance(queued, QueuedRequest)
    assert queued.time_limit_s == 5.0
    fleet.now_s += 5.0
    fleet.control.tick()
    assert fleet.admitted == ["after: queue-timeout"]
    fleet.now_s += TIME_LIMIT_S - 5.0
    fleet.control.tick()
    assert fleet.admitted == ["after: queue-timeout", "before: queue-timeout"]


def test_changed_bounds_of_a_pool_apply_to_a_queue_that_exists() -> None:
    fleet, _ = full(bounds=Bounds(requests=1, body_bytes=1 << 20))
    fleet.join("one")
    assert isinstance(fleet.join("beyond"), Rejection)
    fleet.serve(flow_control_max_requests=2)
    fleet.join("two")
    assert fleet.queued == 2
    fleet.serve(flow_control_max_requests=2, flow_control_max_bytes=1)
    assert isinstance(fleet.join("too large"), Rejection)
    assert fleet.queued == 2
