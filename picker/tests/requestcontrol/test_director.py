"""The director: pools, models, criticality, counting, and sampling of responses."""

import json
from random import Random

import pytest
from fleet import endpoint, scrape
from msgspec.structs import replace
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
        {model.model_name: model for model in models},
        endpoints,
        Scheduler(strategy, prefixes, Random(1)),
        prefixes,
        rewrites,
        {objective.name.name: objective for objective in objectives},
    )


def director(pool: ServedPool, clock: Clock | None = None, unknown_models: bool = True) -> Director:
    director = Director(InFlightTracker(), clock or Clock(), Random(1), unknown_models=unknown_models)
    director.serve([pool], POOL)
    return director


def pick_request(
    model: str = "qwen", prompt: str = "hello", objective: str | None = None, pool: str | None = None
) -> PickRequest:
    body = read_body(json.dumps({"model": model, "prompt": prompt, "max_tokens": 10}).encode(), strict=True)
    assert not isinstance(body, Rejection)
    return PickRequest(pool, body, None, objective)


def assigned(outcome: InFlightRequest | Rejection) -> InFlightRequest:
    assert isinstance(outcome, InFlightRequest)
    return outcome


def rejected(outcome: InFlightRequest | Rejection) -> Rejection:
    assert isinstance(outcome, Rejection)
    return outcome


def test_a_request_counts_as_many_sequences_as_its_server_generates() -> None:
    fleet = [endpoint(1)]
    served = served_pool(fleet)
    director = Director(InFlightTracker(), lambda: 1.0, Random(1), unknown_models=True)
    director.serve([served], served.pool.name)
    read = read_body(json.dumps({"model": "m", "prompt": ["a", "b"], "n": 3, "max_tokens": 10}).encode(), strict=True)
    assert not isinstance(read, Rejection)
    request = assigned(director.assign(PickRequest(None, read, None)))
    assert (fleet[0].in_flight.requests, fleet[0].in_flight.decode_tokens) == (6, 60)
    director.ended(request)
    assert fleet[0].in_flight.requests == 0


def test_a_request_to_an_unknown_pool_is_rejected_with_503() -> None:
    """The gateway may be configured with it before the picker."""
    rejection = rejected(director(served([endpoint(1)])).assign(pick_request(pool="other")))
    assert (rejection.status, rejection.reason) == (503, RejectReason.POOL_UNKNOWN)


def test_an_undeclared_model_keeps_its_name() -> None:
    """A pool needs no InferenceModels."""
    assert assigned(director(served([endpoint(1)])).assign(pick_request("anything"))).served_model is None


def test_without_unknown_models_an_undeclared_model_is_rejected_with_404() -> None:
    """A rewrite declares a model too."""
    rewrites = ModelRewrites({"alias": (TargetModel("base", 1),)}, ())
    strict = director(served([endpoint(1)], rewrites=rewrites), unknown_models=False)
    assert rejected(strict.assign(pick_request("anything"))).status == 404
    assert assigned(strict.assign(pick_request("alias"))).served_model == "base"


def test_targets_are_selected_at_random_by_weight() -> None:
    """About three of four requests get the target of weight 3."""
    splitting = director(served([endpoint(1)], model("qwen", ("v1", 3), ("v2", 1))))
    names = [assigned(splitting.assign(pick_request())).served_model for _ in range(400)]
    assert names.count("v1") + names.count("v2") == 400
    assert 260 < names.count("v1") < 340


def test_an_inference_model_takes_precedence_over_a_rewrite() -> None:
    rewrites = ModelRewrites({"qwen": (TargetModel("rewritten", 1),)}, (TargetModel("other", 1),))
    both = director(served([endpoint(1)], model("qwen", ("declared", 1)), rewrites=rewrites))
    assert assigned(both.assign(pick_request("qwen"))).served_model == "declared"
    assert assigned(both.assign(pick_request("unheard-of"))).served_model == "other"


@pytest.mark.parametrize("unknown_models", [True, False])
def test_a_rewrite_of_the_proxy_takes_precedence_over_the_pools_models(unknown_models: bool) -> None:
    """The proxy may name a model that the pool does not declare."""
    pool = served([endpoint(1)], model("qwen", ("declared", 1)))
    rewriting = director(pool, unknown_models=unknown_models)
    for requested in ("qwen", "unheard-of"):
        outcome = rewriting.assign(replace(pick_request(requested), model_rewrite="canary"))
        assert assigned(outcome).served_model == "canary"
        assert assigned(outcome).request.model == "canary"


@pytest.mark.parametrize(("priority", "passes"), [(-1, False), (0, True), (5, True)])
def test_an_objective_with_a_negative_priority_is_rejected_at_saturation(priority: int, passes: bool) -> None:
    """The objective overrides the model's criticality."""
    full = endpoint(1, running=50, queue_depth=9, kv=0.95)
    clock = Clock()
    clock.now_s = 0.0
    critical = model("qwen", criticality=Criticality.CRITICAL)
    outcome = director(served([full], critical, objectives=(objective("batch", priority),)), clock).assign(
        pick_request(objective="batch")
    )
    assert isinstance(outcome, InFlightRequest) is passes
    if not passes:
        assert (rejected(outcome).status, rejected(outcome).reason) == (429, RejectReason.SATURATED)


def test_an_unknown_objective_is_ignored() -> None:
    """The model's criticality is used."""
    clock = Clock()
    clock.now_s = 0.0
    full = endpoint(1, running=50, queue_depth=9, kv=0.95)
    pool = served([full], model("qwen", criticality=Criticality.SHEDDABLE))
    assert rejected(director(pool, clock).assign(pick_request(objective="unknown"))).status == 429


def test_a_request_is_counted_from_its_pick_to_its_end() -> None:
    """With its prompt's tokens: a stream's headers come before its first token, so they do not end the prefill."""
    only = endpoint(1)
    counting = director(served([only]))
    request = assigned(counting.assign(pick_request(prompt="word " * 400)))
    assert (only.in_flight.requests, only.in_flight.prefill_tokens) == (1, 500)
    counting.response_started(request, None, 200)
    assert (only.in_flight.requests, only.in_flight.prefill_tokens) == (1, 500)
    assert only.speed.slowness is None
    counting.ended(request)
    assert (only.in_flight.requests, only.in_flight.prefill_tokens) == (0, 0)


def test_a_rerouted_request_is_counted_on_the_endpoint_that_served_it() -> None:
    fleet = [endpoint(1), endpoint(2)]
    request = assigned(director(served(fleet)).assign(pick_request()))
    first, second = request.destination.split(",")
    request.served_by(second)
    assert {server.address: server.in_flight.requests for server in fleet} == {first: 0, second: 1}


def test_a_failing_endpoint_is_avoided_until_it_recovers() -> None:
    """A server that responds with errors at once looks idle."""
    broken, busy = endpoint(1), endpoint(2, requests=3)
    choosing = director(served([broken, busy]))
    for _ in range(20):
        request = assigned(choosing.assign(pick_request()))
        failed = request.destination.startswith(broken.address)
        choosing.response_started(request, None, 500 if failed else 200)
        choosing.ended(request)
    assert assigned(choosing.assign(pick_request())).destination.startswith(busy.address)
    broken.failing = 0.0
    assert assigned(choosing.assign(pick_request())).destination.startswith(broken.address)


def test_endpoints_before_the_one_that_answered_count_as_failed() -> None:
    """The proxy tries them in order. A refused or reset connection is not reported otherwise."""
    fleet = [endpoint(number) for number in (1, 2, 3)]
    by_address = {server.address: server for server in fleet}
    choosing = director(served(fleet))
    request = assigned(choosing.assign(pick_request()))
    first, second, third = (by_address[address] for address in request.destination.split(","))
    choosing.response_started(request, third.address, 200)
    choosing.response_started(request, third.address, 200)
    assert (first.failing, second.failing, third.failing) == (0.1, 0.1, 0.0)


def sampled(choosing: Director, requests: int = 100) -> int:
    return sum(choosing.wants_response_headers(str(POOL)) for _ in range(requests))


@pytest.mark.parametrize("status", [400, 503])
def test_a_share_of_responses_is_sampled_and_all_after_an_error(status: int) -> None:
    choosing = director(served([endpoint(1)]))
    choosing.response_started(assigned(choosing.assign(pick_request())), None, 200)
    assert 0 < sampled(choosing) < 40
    choosing.response_started(assigned(choosing.assign(pick_request())), None, status)
    assert sampled(choosing) == 100


def test_all_responses_are_sampled_after_a_rerouted_request() -> None:
    """The picked endpoint may have stopped, and each request is to be counted on the endpoint that serves it."""
    choosing = director(served([endpoint(1), endpoint(2)]))
    first, second = (assigned(choosing.assign(pick_request())) for _ in range(2))
    choosing.response_started(first, first.destination.split(",")[0], 200)
    assert sampled(choosing) < 40
    choosing.response_started(second, second.destination.split(",")[1], 200)
    assert sampled(choosing) == 100


@pytest.mark.parametrize(
    ("models", "rewrites", "all_sampled"),
    [
        ((model("qwen"),), NO_REWRITES, False),
        ((model("qwen", ("qwen", 1), ("qwen-v2", 1)),), NO_REWRITES, True),
        ((), ModelRewrites({"qwen": (TargetModel("qwen", 1),)}, ()), False),
        ((), ModelRewrites({"qwen": (TargetModel("base", 1),)}, ()), True),
        ((), ModelRewrites({}, (TargetModel("base", 1),)), True),
    ],
)
def test_all_responses_of_a_pool_that_renames_models_are_sampled(
    models: tuple[InferenceModel, ...], rewrites: ModelRewrites, all_sampled: bool
) -> None:
    """The decision is made before the request's model is known."""
    choosing = director(served([endpoint(1)], *models, rewrites=rewrites))
    assert (sampled(choosing) == 100) == all_sampled


def test_a_response_that_was_not_sampled_counts_as_a_success() -> None:
    """A response that was requested and did not come is not counted."""
    broken = endpoint(1)
    broken.failing = 0.5
    choosing = director(served([broken]))
    choosing.ended(assigned(choosing.assign(pick_request())))
    assert broken.failing == 0.5
    choosing.ended(assigned(choosing.assign(pick_request())), not_sampled=True)
    assert broken.failing < 0.5


def test_the_time_to_the_first_token_is_predicted_from_earlier_ones() -> None:
    clock, tracker, only = Clock(), InFlightTracker(), endpoint(1)
    learning = Director(tracker, clock, Random(1), unknown_models=True)
    learning.serve([served([only])], POOL)
    scrape(tracker, only, clock.now_s)
    first = assigned(learning.assign(pick_request(prompt="word " * 400)))
    assert first.predicted_ttft_s is None
    clock.now_s += 2.0
    scrape(tracker, only, clock.now_s, first_tokens=1, seconds=2.0)
    learning.ended(first)
    again = assigned(learning.assign(pick_request(prompt="text " * 400)))
    assert again.predicted_ttft_s == pytest.approx(2.0, rel=0.1)


def test_a_prediction_does_not_depend_on_the_cache() -> None:
    """Otherwise clients could find out the prompts of others, block by block."""
    clock, tracker, only = Clock(), InFlightTracker(), endpoint(1)
    only.speed.learn(0.2, 0.2, clock.now_s)
    director = Director(tracker, clock, Random(1), unknown_models=True)
    director.serve([served([only])], POOL)
    secret = "word " * 400
    director.ended(assigned(director.assign(pick_request(prompt=secret))))
    cached = assigned(director.assign(pick_request(prompt=secret)))
    director.ended(cached)
    uncached = assigned(director.assign(pick_request(prompt="text " * 400)))
    assert cached.ranking.cached_tokens > uncached.ranking.cached_tokens
    assert cached.predicted_ttft_s == uncached.predicted_ttft_s is not None
