"""Requests that are held while all servers of their pool are full: the queues, and an exchange that waits in one."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from exchange_conversation import FakeDirector, FakeQueue, body, headers, response
from fleet import endpoint, scrape
from picker.endpoints.endpoint import Endpoint
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
from picker.requestcontrol.flowcontrol.controller import FlowControl
from picker.requestcontrol.flowcontrol.queue import MAX_UNSCRAPED_BURST, Bounds, QueuedRequest
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import read_body
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import (
    AppProtocol,
    Criticality,
    InferenceModel,
    InferencePool,
    RoutingStrategy,
    TargetModel,
)
from picker.resources.names import ObjectName, PoolName
from picker.scheduling.scheduler import Scheduler

POOL = PoolName("inference.networking.k8s.io", "default", "qwen")
TIME_LIMIT_S = 60.0
FULL_S = 3.0
"""Of prompts in flight, at the pace that the servers of these tests have."""


@dataclass
class Fleet:
    """A pool with flow control, and a clock that stands still."""

    endpoints: list[Endpoint]
    bounds: Bounds = field(default_factory=lambda: Bounds(requests=100, body_bytes=1 << 20))
    now_s: float = 100.0
    soon: list[Callable[[], None]] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    """Who had its turn, and what was refused, in order."""

    def __post_init__(self) -> None:
        self.tracker = InFlightTracker()
        self.director = Director(self.tracker, self.clock, Random(1), unknown_models=True)
        self.serve()
        self.control = FlowControl(self.director, self.clock, self.soon.append, self.bounds, TIME_LIMIT_S)
        self.tracker.on_freed = self.control.freed

    def serve(self) -> None:
        models = {
            each.value: InferenceModel(
                ObjectName("default", each.value), POOL, each.value, each, (TargetModel(each.value, 1),), None
            )
            for each in Criticality
        }
        pool = InferencePool(POOL, {"app": "qwen"}, (8000,), None, AppProtocol.HTTP, RoutingStrategy.DEFAULT)
        prefixes = PrefixIndex(BLOCK_TOKENS)
        scheduler = Scheduler(RoutingStrategy.DEFAULT, prefixes, Random(1))
        self.director.serve([ServedPool(pool, models, self.endpoints, scheduler, prefixes)], POOL)

    def clock(self) -> float:
        return self.now_s

    def fill(self) -> list[InFlightRequest]:
        """Prompts in flight on every endpoint, more than any request waits for there; each ends when it is told to."""
        filling: list[InFlightRequest] = []
        for each in self.endpoints:
            each.pace.learn(1000, 1.0, 0.0)
            answer = self.director.assign(
                wanted("Critical", tokens=int(FULL_S * 1000), subset=frozenset({each.address}))
            )
            assert isinstance(answer, InFlightRequest)
            filling.append(answer)
        return filling

    def asks(self, name: str, criticality: str = "Standard", **more: object) -> QueuedRequest | Rejection | None:
        def on_admitted(refusal: Rejection | None) -> None:
            self.turns.append(name if refusal is None else f"{name}: {refusal.reason}")

        return self.control.join(wanted(criticality, **more), on_admitted)  # type: ignore[arg-type]

    def later(self) -> None:
        """What happens now has happened."""
        due, self.soon[:] = list(self.soon), []
        for each in due:
            each()

    @property
    def held(self) -> int:
        return sum(each.requests for each in self.control.waiting())


def wanted(
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
    return PickRequest(None, read, subset, None, flow, RequestInfo(body_bytes=len(data)))


def full(*endpoints: Endpoint, bounds: Bounds | None = None) -> tuple[Fleet, list[InFlightRequest]]:
    fleet = Fleet(list(endpoints) or [endpoint(1)], bounds or Bounds(requests=100, body_bytes=1 << 20))
    return fleet, fleet.fill()


def test_where_there_is_room_nothing_is_held() -> None:
    fleet = Fleet([endpoint(1)])
    assert [fleet.asks(each, each) for each in Criticality] == [None, None, None]


def test_a_request_waits_until_another_has_ended() -> None:
    """And not within that one's end: it is told soon after, once for all that ended together."""
    fleet, filling = full(endpoint(1), endpoint(2))
    fleet.asks("held")
    assert fleet.held == 1
    for each in filling:
        fleet.director.ended(each)
    assert fleet.turns == []
    assert len(fleet.soon) == 1
    fleet.later()
    assert (fleet.turns, fleet.held) == (["held"], 0)


def test_a_prompt_that_is_computed_makes_room_before_its_answer_ends() -> None:
    fleet, [filling] = full()
    fleet.asks("held")
    only = filling.endpoint
    scrape(fleet.tracker, only, fleet.now_s)
    scrape(fleet.tracker, only, fleet.now_s, first_tokens=1, seconds=0.1)
    fleet.later()
    assert fleet.turns == ["held"]


def test_room_that_only_a_scrape_sees_is_found_by_the_clock() -> None:
    fleet = Fleet([endpoint(1, queue_depth=20)], now_s=0.0)
    fleet.asks("held")
    fleet.control.tick()
    assert fleet.turns == []
    fleet.endpoints[0].metrics = endpoint(1).metrics
    fleet.control.tick()
    assert fleet.turns == ["held"]


def test_a_burst_does_not_outrun_the_scrapes() -> None:
    """The rest waits for the next one to tell whether the first have begun to queue."""
    fleet = Fleet([endpoint(1)], now_s=0.0)
    sent = [fleet.director.assign(wanted("Standard")) for _ in range(MAX_UNSCRAPED_BURST)]
    assert len(sent) == MAX_UNSCRAPED_BURST
    fleet.asks("held")
    assert fleet.held == 1
    fleet.endpoints[0].metrics = endpoint(
        1, running=MAX_UNSCRAPED_BURST, in_flight_at_scrape=MAX_UNSCRAPED_BURST
    ).metrics
    fleet.control.tick()
    assert fleet.turns == ["held"]


def test_only_as_many_go_as_there_is_room_for() -> None:
    """Each is counted before the next is looked at."""
    fleet, [filling] = full()

    def takes_room(_: Rejection | None) -> None:
        fleet.turns.append("gone")
        assert isinstance(fleet.director.assign(wanted("Standard", tokens=1500)), InFlightRequest)

    for _ in range(3):
        fleet.control.join(wanted("Standard"), takes_room)
    fleet.director.ended(filling)
    fleet.later()
    assert (fleet.turns, fleet.held) == (["gone"], 2)


def test_one_that_comes_while_its_equals_wait_does_not_overtake_them() -> None:
    """Though there is room, just now; and none of them waits for the clock."""
    fleet, [filling] = full()
    fleet.asks("first")
    fleet.director.ended(filling)
    assert fleet.asks("second") is not None
    assert fleet.asks("critical", "Critical") is None
    fleet.later()
    assert fleet.turns == ["first", "second"]


def test_what_costs_a_server_nothing_is_not_held() -> None:
    fleet, _ = full()
    assert fleet.asks("tokenize", api=NO_WORK) is None
    assert fleet.asks("embedding", api=Api(("prompt",), output_tokens=0)) is not None


def test_a_limit_of_nothing_does_not_pass_the_queue() -> None:
    fleet, _ = full()
    assert fleet.asks("standard", max_tokens=0) is not None


def test_one_that_may_only_go_where_there_is_no_room_keeps_nobody_waiting() -> None:
    fleet, filling = full(endpoint(1), endpoint(2))
    fleet.asks("elsewhere", flow="a", subset=frozenset({fleet.endpoints[0].address}))
    fleet.asks("anywhere", flow="b")
    fleet.director.ended(filling[1])
    fleet.later()
    assert fleet.turns == ["anywhere"]
    fleet.director.ended(filling[0])
    fleet.later()
    assert fleet.turns == ["anywhere", "elsewhere"]


@pytest.mark.parametrize(
    ("criticality", "turn"),
    [("Critical", "one"), ("Standard", "one: queue-timeout"), ("Sheddable", "one: queue-timeout")],
)
def test_after_the_time_limit_a_request_is_refused_unless_it_is_critical(criticality: str, turn: str) -> None:
    fleet, _ = full()
    fleet.asks("one", criticality)
    fleet.now_s += TIME_LIMIT_S - 1
    fleet.control.tick()
    assert fleet.turns == []
    fleet.now_s += 1
    fleet.control.tick()
    assert (fleet.turns, fleet.held) == ([turn], 0)


def test_what_does_not_fit_is_refused_unless_it_is_critical() -> None:
    fleet, _ = full(bounds=Bounds(requests=1, body_bytes=1 << 20))
    for each in Criticality:
        fleet.asks("held", each)
    refusal = fleet.asks("more")
    assert isinstance(refusal, Rejection)
    assert (refusal.status, refusal.reason) == (429, "queue-full")
    assert fleet.asks("more", "Critical") is None


def test_who_has_left_has_no_turn() -> None:
    fleet, [filling] = full()
    place = fleet.asks("held")
    assert place is not None
    assert not isinstance(place, Rejection)
    fleet.control.leave(place)
    fleet.director.ended(filling)
    fleet.later()
    assert (fleet.turns, fleet.held) == ([], 0)


def test_without_an_endpoint_that_answers_nobody_waits() -> None:
    """They are answered that there is none, those that have waited too."""
    fleet, _ = full()
    fleet.asks("held")
    fleet.endpoints.clear()
    fleet.control.tick()
    assert fleet.turns == ["held"]
    assert fleet.asks("more") is None


def test_a_pool_that_goes_lets_go_of_what_waits_for_it() -> None:
    fleet, _ = full()
    fleet.asks("held")
    fleet.director.serve([], None)
    fleet.control.tick()
    assert (fleet.turns, fleet.held) == (["held"], 0)


def test_a_picker_that_stops_holds_nothing_any_more() -> None:
    fleet, _ = full()
    fleet.asks("held")
    fleet.control.stop()
    assert fleet.turns == ["held"]
    assert fleet.asks("more") is None


class Talk:
    """An exchange whose request is held, and what it said since."""

    def __init__(self, mode: BodyMode = BodyMode.BUFFERED, served_model: str | None = None) -> None:
        self.director = FakeDirector(served_model=served_model)
        self.queue = FakeQueue()
        self.exchange = Exchange(self.director, Limits(), queue=self.queue)
        self.exchange.on_admitted(self._turn)
        self.mode = mode
        self.exchange.receive(headers(mode=mode))
        self.replies: list[Reply] = []

    def _turn(self, refusal: Rejection | None) -> None:
        self.replies += self.exchange.resume(refusal)

    def turn(self, refusal: Rejection | None = None) -> list[Reply]:
        self.queue.admit(refusal)
        return self.replies


def test_a_held_request_asks_the_proxy_for_patience_and_gets_its_pick_later() -> None:
    talk = Talk()
    assert talk.exchange.receive(body()) == [ExtendTimeout(TIME_LIMIT_S + EXTRA_MESSAGE_TIMEOUT_S)]
    assert (talk.director.requests, talk.exchange.deadline_s, talk.exchange.settled) == ([], None, False)
    [reply] = talk.turn()
    assert isinstance(reply, BodyReply)
    assert reply.changes.destination is not None
    assert len(talk.director.requests) == 1


def test_a_held_request_has_its_model_renamed_as_any_other() -> None:
    talk = Talk(served_model="m-v2")
    talk.exchange.receive(body())
    [reply] = talk.turn()
    assert isinstance(reply, BodyReply)
    assert reply.data is not None
    assert json.loads(reply.data)["model"] == "m-v2"


@pytest.mark.parametrize("with_trailers", [True, False])
def test_a_held_body_in_full_duplex_is_handed_back_whole_with_its_pick(with_trailers: bool) -> None:
    """Its trailers last. An end of stream that is said twice, meanwhile, changes nothing."""
    talk = Talk(BodyMode.FULL_DUPLEX_STREAMED)
    said = talk.exchange.receive(body(end=not with_trailers))
    if with_trailers:
        said += talk.exchange.receive(Trailers(Phase.REQUEST))
    else:
        assert talk.exchange.receive(Body(Phase.REQUEST, b"", True)) == []
    assert [type(each) for each in said] == [ExtendTimeout]
    first, piece, *rest = talk.turn()
    assert isinstance(first, HeadersReply)
    assert isinstance(piece, DuplexBodyReply)
    assert (piece.data, piece.end_of_stream) == (body().data, not with_trailers)
    assert rest == ([TrailersReply(Phase.REQUEST)] if with_trailers else [])


def test_a_held_request_may_be_refused() -> None:
    talk = Talk()
    talk.exchange.receive(body())
    [reply] = talk.turn(Rejection(RejectReason.QUEUE_TIMEOUT, "No."))
    assert isinstance(reply, ImmediateReply)
    assert (reply.status, talk.director.requests, len(talk.director.rejections)) == (503, [], 1)


def test_a_request_that_the_queue_has_no_place_for_is_refused_at_once() -> None:
    talk = Talk()
    talk.queue.rejection = Rejection(RejectReason.QUEUE_FULL, "No.")
    [reply] = talk.exchange.receive(body())
    assert isinstance(reply, ImmediateReply)
    assert (reply.status, len(talk.director.rejections)) == (429, 1)


@pytest.mark.parametrize("ends", ["closes", "proxy answers", "fails"])
def test_a_held_request_that_ends_leaves_its_place_once(ends: str) -> None:
    """Its client has gone, or the proxy has answered it; a turn that comes all the same is nobody's."""
    talk = Talk()
    talk.exchange.receive(body())
    if ends == "proxy answers":
        talk.exchange.receive(response())
    elif ends == "fails":
        assert [type(each) for each in talk.exchange.fail()] == [ImmediateReply]
    talk.exchange.close()
    talk.exchange.close()
    assert talk.queue.left == 1
    talk.queue.admit()
    assert (talk.replies, talk.director.requests) == ([], [])


def test_a_desk_that_fails_at_the_turn_is_answered_for() -> None:
    """As it is without a queue."""
    talk = Talk()
    talk.exchange.receive(body())
    talk.director.fails = RuntimeError("boom")
    with pytest.raises(RuntimeError):
        talk.turn()
    [reply] = talk.exchange.fail()
    assert isinstance(reply, ImmediateReply)
    assert reply.status == 500
