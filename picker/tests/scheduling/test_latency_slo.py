"""Requests of a priority below 0 whose requested latency no endpoint is predicted to keep are rejected."""

from random import Random

import pytest
from fleet import endpoint, request
from msgspec.structs import replace
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.load.step_time import PRIOR, StepWork
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.rejection import Rejection, RejectReason
from picker.resources.inference import RoutingStrategy
from picker.scheduling.latency_slo import LatencySlo, predicted_ttft_s
from picker.scheduling.scheduler import Scheduler

TOKEN_S = PRIOR.per_prompt_token_s


def busy(number: int = 1, *, tokens: int = 0, kv: float = 0.5, requests: int = 4, refused: bool = False) -> Endpoint:
    """An endpoint whose speed is known."""
    server = endpoint(
        number, requests=requests, running=requests, in_flight_at_scrape=requests, tokens=tokens, kv=kv, refused=refused
    )
    server.speed.learn(1.0, 1.0, 0.0)
    return server


def rejection(
    *endpoints: Endpoint, ttft_s: float | None = None, tpot_s: float | None = None, priority: int = -1, now_s: float = 0
) -> RejectReason | None:
    asked = replace(request(priority=priority), slo=LatencySlo(ttft_s, tpot_s))
    scheduler = Scheduler(RoutingStrategy.DEFAULT, PrefixIndex(64), Random(1))
    decision = scheduler.schedule(asked, endpoints, now_s)
    return decision.reason if isinstance(decision, Rejection) else None


def test_the_prediction_grows_with_the_prompt_and_the_prompts_ahead() -> None:
    ahead, alone = busy(tokens=1000), busy()
    first_s, second_s = predicted_ttft_s(alone, 1000, 0), predicted_ttft_s(alone, 2000, 0)
    behind_s = predicted_ttft_s(ahead, 1000, 0)
    assert first_s is not None
    assert second_s is not None
    assert second_s - first_s == pytest.approx(1000 * TOKEN_S)
    assert behind_s == pytest.approx(second_s)


def test_a_request_that_no_endpoint_can_serve_in_time_is_rejected() -> None:
    fast_s = predicted_ttft_s(busy(), 1000, 0)
    assert fast_s is not None
    assert rejection(busy(), busy(2), ttft_s=0.9 * fast_s) is RejectReason.SLO_UNATTAINABLE
    assert rejection(busy(), busy(2), ttft_s=1.1 * fast_s) is None
    assert rejection(busy(tokens=1000), busy(2), ttft_s=1.1 * fast_s) is None


@pytest.mark.parametrize("priority", [0, 1])
def test_only_a_priority_below_0_is_rejected(priority: int) -> None:
    assert rejection(busy(), ttft_s=0.001, priority=priority) is None


@pytest.mark.parametrize(
    "other", [busy(2, requests=0), busy(2, kv=0.01), endpoint(2, requests=3, running=3, kv=0.5, scraped=False)]
)
def test_an_endpoint_that_is_idle_cold_or_unknown_gets_the_request(other: Endpoint) -> None:
    assert rejection(busy(), other, ttft_s=0.001) is None


def test_an_endpoint_whose_speed_is_unknown_gets_the_request() -> None:
    unknown = endpoint(2, requests=3, running=3, in_flight_at_scrape=3, kv=0.5)
    assert rejection(busy(), unknown, ttft_s=0.001) is None


def test_no_request_is_rejected_because_of_old_metrics() -> None:
    assert rejection(busy(), ttft_s=0.001, now_s=6) is None


def test_an_endpoint_that_refuses_connections_does_not_count() -> None:
    """It is idle because of that. If all refuse them, the proxy decides."""
    refuses = busy(2, requests=0, refused=True)
    assert rejection(busy(), refuses, ttft_s=0.001) is RejectReason.SLO_UNATTAINABLE
    assert rejection(refuses, ttft_s=0.001) is None


def test_a_cached_prompt_is_predicted_to_be_fast() -> None:
    holder, blocks = busy(), tuple(range(16))
    index = PrefixIndex(64)
    index.sent(holder, blocks)
    scheduler = Scheduler(RoutingStrategy.DEFAULT, index, Random(1))
    full_s, rest_s = predicted_ttft_s(holder, 1000, 0), predicted_ttft_s(holder, 0, 0)
    assert full_s is not None
    assert rest_s is not None
    slo = LatencySlo(ttft_s=(full_s + rest_s) / 2)
    asked = replace(request(priority=-1, blocks=blocks), slo=slo)
    assert not isinstance(scheduler.schedule(asked, [holder], 0), Rejection)
    assert isinstance(scheduler.schedule(replace(asked, blocks=(99,)), [holder], 0), Rejection)


def test_the_time_between_tokens_is_that_of_the_observed_steps() -> None:
    server = busy()
    assert rejection(server, tpot_s=PRIOR.base_s / 10) is None, "no step was observed"
    for _ in range(30):
        server.step_time.scraped(StepWork(2.0, 2.0 / PRIOR.base_s, 4 * 2.0 / PRIOR.base_s, 0.0, 0.0), 0.0)
    assert rejection(server) is None, "the pool learns from its servers with each decision"
    assert rejection(server, tpot_s=0.5 * PRIOR.base_s) is RejectReason.SLO_UNATTAINABLE
    assert rejection(server, tpot_s=2 * PRIOR.base_s) is None


def test_a_wait_before_the_pick_counts() -> None:
    assert LatencySlo(1.0, 0.1).after(0.4) == LatencySlo(0.6, 0.1)
    assert LatencySlo(None, 0.1).after(0.4) == LatencySlo(None, 0.1)
