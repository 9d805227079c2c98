"""Where a request that has been read gets its endpoint."""

import json
from random import Random

import pytest
from fleet import endpoint, scrape
from pick_stream import served_pool
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.request_body import read_body
from picker.requestcontrol.served_pool import NO_REWRITES, ServedPool
from picker.requestcontrol.session_key import session_key
from picker.resources.inference import (
    AppProtocol,
    Criticality,
    InferenceModel,
    InferenceObjective,
    InferencePool,
    ModelRewrites,
    RoutingStrategy,
    TargetModel,
)
from picker.resources.names import ObjectName, PoolName
from picker.scheduling.scheduler import Scheduler

POOL = PoolName("inference.networking.k8s.io", "default", "qwen")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def model(name: str, *targets: tuple[str, int], criticality: Criticality = Criticality.STANDARD) -> InferenceModel:
    listed = tuple(TargetModel(target, weight) for target, weight in targets) or (TargetModel(name, 1),)
    return InferenceModel(ObjectName("default", name), POOL, name, criticality, listed, None)


def objective(name: str, priority: int) -> InferenceObjective:
    return InferenceObjective(ObjectName("default", name), POOL, priority)


def served(
    endpoints: list[Endpoint],
    *models: InferenceModel,
    rewrites: ModelRewrites = NO_REWRITES,
    objectives: tuple[InferenceObjective, ...] = (),
    strategy: RoutingStrategy = RoutingStrategy.DEFAULT,
) -> ServedPool:
    prefixes = PrefixIndex(BLOCK_TOKENS)
    pool = InferencePool(POOL, {"app": "qwen"}, (8000,), None, AppProtocol.HTTP, strategy)
    return ServedPool(
        pool,
        {each.model_name: each for each in models},
        endpoints,
        Scheduler(strategy, prefixes, Random(1)),
        prefixes,
        rewrites,
        {each.name.name: each for each in objectives},
    )


def director(pool: ServedPool, clock: Clock | None = None, unknown_models: bool = True) -> Director:
    made = Director(InFlightTracker(), clock or Clock(), Random(1), unknown_models=unknown_models)
    made.serve([pool], POOL)
    return made


def wanted(
    asked: str = "qwen", prompt: str = "hello", objective: str | None = None, pool: str | None = None
) -> PickRequest:
    body = read_body(json.dumps({"model": asked, "prompt": prompt, "max_tokens": 10}).encode(), strict=True)
    assert not isinstance(body, Rejection)
    return PickRequest(pool, body, None, objective)


def assigned(answer: InFlightRequest | Rejection) -> InFlightRequest:
    assert isinstance(answer, InFlightRequest)
    return answer


def rejected(answer: InFlightRequest | Rejection) -> Rejection:
    assert isinstance(answer, Rejection)
    return answer


def test_a_request_counts_as_many_sequences_as_its_server_generates() -> None:
    fleet = [endpoint(1)]
    served = served_pool(fleet)
    director = Director(InFlightTracker(), lambda: 1.0, Random(1), unknown_models=True)
    director.serve([served], served.pool.name)
    read = read_body(json.dumps({"model": "m", "prompt": ["a", "b"], "n": 3, "max_tokens": 10}).encode(), strict=True)
    assert not isinstance(read, Rejection)
    answer = assigned(director.assign(PickRequest(None, read, None)))
    assert (fleet[0].in_flight.requests, fleet[0].in_flight.decode_tokens) == (6, 60)
    director.ended(answer)
    assert fleet[0].in_flight.requests == 0


def test_a_pool_that_is_not_known_is_answered_503() -> None:
    """The gateway may know it before the picker does."""
    answer = rejected(director(served([endpoint(1)])).assign(wanted(pool="other")))
    assert (answer.status, answer.reason) == (503, RejectReason.POOL_UNKNOWN)


def test_a_model_that_is_not_declared_keeps_its_name() -> None:
    """A pool without InferenceModels just works."""
    assert assigned(director(served([endpoint(1)])).assign(wanted("anything"))).served_model is None


def test_a_model_that_is_not_declared_is_answered_404_where_that_is_asked_for() -> None:
    """A rewrite declares it as well."""
    rewrites = ModelRewrites({"alias": (TargetModel("base", 1),)}, ())
    strict = director(served([endpoint(1)], rewrites=rewrites), unknown_models=False)
    assert rejected(strict.assign(wanted("anything"))).status == 404
    assert assigned(strict.assign(wanted("alias"))).served_model == "base"


def test_targets_are_drawn_by_weight() -> None:
    """Three in four go to the heavier one, give or take."""
    splitting = director(served([endpoint(1)], model("qwen", ("v1", 3), ("v2", 1))))
    names = [assigned(splitting.assign(wanted())).served_model for _ in range(400)]
    assert names.count("v1") + names.count("v2") == 400
    assert 260 < names.count("v1") < 340


def test_an_inference_model_comes_before_a_rewrite() -> None:
    """The rewrite is for the models that it alone names."""
    rewrites = ModelRewrites({"qwen": (TargetModel("rewritten", 1),)}, (TargetModel("other", 1),))
    both = director(served([endpoint(1)], model("qwen", ("declared", 1)), rewrites=rewrites))
    assert assigned(both.assign(wanted("qwen"))).served_model == "declared"
    assert assigned(both.assign(wanted("unheard-of"))).served_model == "other"


@pytest.mark.parametrize(("priority", "passes"), [(-1, False), (0, True), (5, True)])
def test_an_objective_says_how_much_a_request_matters(priority: int, passes: bool) -> None:
    """Below 0 it is shed when the servers queue, whatever its model says."""
    full = endpoint(1, running=50, queue_depth=9, kv=0.95)
    clock = Clock()
    clock.now_s = 0.0
    critical = model("qwen", criticality=Criticality.CRITICAL)
    answer = director(served([full], critical, objectives=(objective("batch", priority),)), clock).assign(
        wanted(objective="batch")
    )
    assert isinstance(answer, InFlightRequest) is passes
    if not passes:
        assert (rejected(answer).status, rejected(answer).reason) == (429, RejectReason.SATURATED)


def test_an_objective_that_does_not_exist_changes_nothing() -> None:
    """The model's criticality stands."""
    clock = Clock()
    clock.now_s = 0.0
    full = endpoint(1, running=50, queue_depth=9, kv=0.95)
    pool = served([full], model("qwen", criticality=Criticality.SHEDDABLE))
    assert rejected(director(pool, clock).assign(wanted(objective="nobody"))).status == 429


def test_a_request_is_counted_from_its_pick_to_its_end() -> None:
    """The prompt's tokens too: a stream's headers come before its first token, and say nothing of it."""
    only = endpoint(1)
    counting = director(served([only]))
    assignment = assigned(counting.assign(wanted(prompt="word " * 400)))
    assert (only.in_flight.requests, only.in_flight.prefill_tokens) == (1, 500)
    counting.response_started(assignment, None, 200)
    assert (only.in_flight.requests, only.in_flight.prefill_tokens) == (1, 500)
    assert only.pace.seconds_per_token is None
    counting.ended(assignment)
    assert (only.in_flight.requests, only.in_flight.prefill_tokens) == (0, 0)


def test_a_request_is_counted_where_it_was_served() -> None:
    """The proxy fell back to the second of the list, and says so."""
    fleet = [endpoint(1), endpoint(2)]
    assignment = assigned(director(served(fleet)).assign(wanted()))
    first, second = assignment.destination.split(",")
    assignment.served_by(second)
    assert {each.address: each.in_flight.requests for each in fleet} == {first: 0, second: 1}


def test_errors_make_an_endpoint_worse_and_answers_make_it_good_again() -> None:
    """A server that answers errors at once looks idle."""
    broken, busy = endpoint(1), endpoint(2, requests=3)
    choosing = director(served([broken, busy]))
    for _ in range(20):
        assignment = assigned(choosing.assign(wanted()))
        failed = assignment.destination.startswith(broken.address)
        choosing.response_started(assignment, None, 500 if failed else 200)
        choosing.ended(assignment)
    assert assigned(choosing.assign(wanted())).destination.startswith(busy.address)
    broken.failing = 0.0
    assert assigned(choosing.assign(wanted())).destination.startswith(broken.address)


def test_endpoints_before_the_one_that_answered_have_failed() -> None:
    """The proxy tries them in order: a cut or refused connection is seen by this only."""
    fleet = [endpoint(number) for number in (1, 2, 3)]
    by_address = {each.address: each for each in fleet}
    choosing = director(served(fleet))
    assignment = assigned(choosing.assign(wanted()))
    first, second, third = (by_address[address] for address in assignment.destination.split(","))
    choosing.response_started(assignment, third.address, 200)
    choosing.response_started(assignment, third.address, 200)
    assert (first.failing, second.failing, third.failing) == (0.1, 0.1, 0.0)


def seen_answers(choosing: Director, asked: int = 100) -> int:
    return sum(choosing.wants_response_headers(str(POOL)) for _ in range(asked))


@pytest.mark.parametrize("status", [400, 503])
def test_a_few_answers_are_seen_and_all_after_an_error(status: int) -> None:
    """Errors are counted."""
    choosing = director(served([endpoint(1)]))
    choosing.response_started(assigned(choosing.assign(wanted())), None, 200)
    assert 0 < seen_answers(choosing) < 40
    choosing.response_started(assigned(choosing.assign(wanted())), None, status)
    assert seen_answers(choosing) == 100


def test_all_answers_are_seen_after_one_from_another_endpoint_than_the_picked_one() -> None:
    """The picked one may have gone, and what is in flight has to be counted where it is."""
    choosing = director(served([endpoint(1), endpoint(2)]))
    first, second = (assigned(choosing.assign(wanted())) for _ in range(2))
    choosing.response_started(first, first.destination.split(",")[0], 200)
    assert seen_answers(choosing) < 40
    choosing.response_started(second, second.destination.split(",")[1], 200)
    assert seen_answers(choosing) == 100


@pytest.mark.parametrize(
    ("models", "rewrites", "all_seen"),
    [
        ((model("qwen"),), NO_REWRITES, False),
        ((model("qwen", ("qwen", 1), ("qwen-v2", 1)),), NO_REWRITES, True),
        ((), ModelRewrites({"qwen": (TargetModel("qwen", 1),)}, ()), False),
        ((), ModelRewrites({"qwen": (TargetModel("base", 1),)}, ()), True),
        ((), ModelRewrites({}, (TargetModel("base", 1),)), True),
    ],
)
def test_all_answers_are_seen_where_one_may_name_another_model(
    models: tuple[InferenceModel, ...], rewrites: ModelRewrites, all_seen: bool
) -> None:
    """When the proxy is to be told, nobody knows yet which model a request names."""
    choosing = director(served([endpoint(1)], *models, rewrites=rewrites))
    assert (seen_answers(choosing) == 100) == all_seen


def test_an_answer_that_was_not_looked_at_counts_as_a_good_one() -> None:
    """One that never came does not."""
    broken = endpoint(1)
    broken.failing = 0.5
    choosing = director(served([broken]))
    choosing.ended(assigned(choosing.assign(wanted())))
    assert broken.failing == 0.5
    choosing.ended(assigned(choosing.assign(wanted())), not_sampled=True)
    assert broken.failing < 0.5


def test_the_time_to_the_first_token_is_predicted_from_those_before() -> None:
    """None before there was one."""
    clock, tracker, only = Clock(), InFlightTracker(), endpoint(1)
    learning = Director(tracker, clock, Random(1), unknown_models=True)
    learning.serve([served([only])], POOL)
    scrape(tracker, only, clock.now_s)
    first = assigned(learning.assign(wanted(prompt="word " * 400)))
    assert first.predicted_ttft_s is None
    clock.now_s += 2.0
    scrape(tracker, only, clock.now_s, first_tokens=1, seconds=2.0)
    learning.ended(first)
    again = assigned(learning.assign(wanted(prompt="text " * 400)))
    assert again.predicted_ttft_s == pytest.approx(2.0, rel=0.1)


def test_a_prediction_does_not_say_what_is_cached() -> None:
    """Else clients could ask block by block what others have sent."""
    clock, tracker, only = Clock(), InFlightTracker(), endpoint(1)
    only.pace.learn(1000, 0.2, clock.now_s)
    director = Director(tracker, clock, Random(1), unknown_models=True)
    director.serve([served([only])], POOL)
    secret = "word " * 400
    director.ended(assigned(director.assign(wanted(prompt=secret))))
    right = assigned(director.assign(wanted(prompt=secret)))
    director.ended(right)
    wrong = assigned(director.assign(wanted(prompt="text " * 400)))
    assert right.ranking.cached_tokens > wrong.ranking.cached_tokens
    assert right.predicted_ttft_s == wrong.predicted_ttft_s is not None


def chat(*texts: str) -> bytes:
    roles = ["system", *["user", "assistant"] * len(texts)]
    return json.dumps([{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]).encode()


def test_the_turns_of_a_conversation_are_told_as_one() -> None:
    """The first, which has no answer in it yet, among them."""
    turns = ([], ["hi", "you?"], ["hi", "you?", "fine", "good"])
    first, *later = (session_key(chat("be kind", "hello", *more), b"") for more in turns)
    assert first[0] is not None
    assert not first[1]
    assert later == [(first[0], True)] * 2
    assert session_key(chat("be kind", "good day"), b"")[0] != first[0]
    assert session_key(chat("be kind", "hello"), b"other model")[0] != first[0]


def test_text_that_names_roles_is_no_conversation() -> None:
    """Its quotes are escaped."""
    assert session_key(json.dumps('say "user" and "assistant" and "role"').encode(), b"") == (None, False)


def test_of_a_long_prompt_only_the_beginning_is_looked_at() -> None:
    """A first turn that is longer has no name; a later one does where the first answer comes early."""
    assert session_key(chat("be kind", "x" * 40_000), b"") == (None, False)
    early = session_key(chat("be kind", "hello", "hi", "x" * 40_000), b"")
    assert early == (session_key(chat("be kind", "hello"), b"")[0], True)
