"""Observations against an endpoint decay: after it has recovered it gets its share, at any load."""

import pytest
from fleet import endpoint
from no_starvation_traffic import OURS, Traffic
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.load.speed import MAX_DEVIATION, CompletionRate, SpeedEstimate
from picker.resources.inference import RoutingStrategy
from picker.scheduling.terms.lora import FULL_TOKENS, LOAD_TOKENS, MAX_SENT_ADAPTERS, SENT_ADAPTER_TTL_S, LoraAffinity


@OURS
@pytest.mark.parametrize("in_flight", [0, 1, 3])
def test_an_endpoint_that_failed_gets_its_share_within_20_s(strategy: RoutingStrategy, in_flight: int) -> None:
    """Also with one client, when only the failures favour the other endpoint."""
    broken, well = endpoint(1), endpoint(2)
    traffic = Traffic(strategy, [broken, well], blocks=0)
    for _ in range(12):
        broken.answer_counted(failed=True)
    picks = [(traffic.now_s, _send(traffic, in_flight) is broken) for _ in range(600)]
    assert not any(was for now_s, was in picks if now_s < 2)
    after = [was for now_s, was in picks if now_s > 20]
    assert 0.3 * len(after) < sum(after) < 0.7 * len(after)


@OURS
def test_an_endpoint_that_still_fails_gets_few_requests(strategy: RoutingStrategy) -> None:
    """Of ten requests a second, less than one."""
    broken, well = endpoint(1), endpoint(2)
    traffic = Traffic(strategy, [broken, well], blocks=0)
    picks: list[bool] = []
    for _ in range(1000):
        chosen = _send(traffic, 2)
        chosen.answer_counted(failed=chosen is broken)
        picks.append(chosen is broken)
    assert 5 < sum(picks[-500:]) < 50


def _send(traffic: Traffic, left: int) -> Endpoint:
    chosen = traffic.send()
    traffic.end_all_but(left)
    return chosen


@pytest.mark.parametrize(("predicted_s", "seconds"), [(100.0, 0.4), (0.4, 4000.0), (0.4, 0.0), (100.0, 1600.0)])
def test_one_response_changes_a_speed_by_a_bounded_factor(predicted_s: float, seconds: float) -> None:
    """A picture's bytes that were counted as text, a response that hung, or a prompt of hours."""
    speed = SpeedEstimate()
    for _ in range(300):
        speed.learn(0.4, 0.4, 0.0)
    before = speed.slowness
    speed.learn(predicted_s, seconds, 0.0)
    assert before is not None
    assert speed.slowness is not None
    assert 1 / 1.25 < speed.slowness / before < 1.0 + MAX_DEVIATION / 100


def test_one_long_gap_changes_the_completion_rate_by_a_bounded_factor() -> None:
    """A single response of an hour must not cause the rejection of others."""
    drain = CompletionRate()
    for number in range(200):
        drain.ended(0.5 * number, left=1)
    before_s = drain.interval_s
    drain.ended(4000.0, left=1)
    assert drain.interval_s < 1.5 * before_s


def adapters(number: int, *active: str) -> Endpoint:
    created = endpoint(number)
    created.metrics = ServerMetrics(0, 1, 0.1, active_loras=frozenset(active), max_loras=2)
    return created


def test_an_adapter_that_was_sent_recently_counts_as_loaded() -> None:
    """Servers report only adapters with requests in flight."""
    affinity, (here, there) = LoraAffinity(), (adapters(1, "a"), adapters(2))
    here.in_flight.models["a"] = 1
    affinity.observe([here, there], 0.0)
    affinity.observe([here, there], 1.0)
    del here.in_flight.models["a"]
    here.metrics = there.metrics = ServerMetrics(0, 0, 0.0, max_loras=2)
    affinity.observe([here, there], 300.0)
    assert affinity.tokens("a", [here, there]) == [0.0, LOAD_TOKENS]
    affinity.observe([here, there], 301.0 + SENT_ADAPTER_TTL_S)
    assert affinity.tokens("a", [here, there]) is None


def test_a_server_that_reports_all_adapter_slots_used_is_full() -> None:
    affinity, fleet = LoraAffinity(), [adapters(1, "a", "b"), adapters(2, "c")]
    affinity.observe(fleet, 0.0)
    assert affinity.tokens("c", fleet) == [FULL_TOKENS, 0.0]


def test_adapter_names_are_dropped_with_the_scrape_that_reported_them() -> None:
    """A server may report others at each scrape. The names of an endpoint that leaves are dropped."""
    affinity, where = LoraAffinity(), adapters(1)
    for number in range(300):
        where.metrics = ServerMetrics(0, 1, 0.1, active_loras=frozenset({f"a{number}", "b"}), max_loras=9999)
        where.in_flight.models = {f"a{number}": 1}
        affinity.observe([where], float(number))
    assert affinity.tokens("a0", [where]) is None
    assert len(affinity.known_adapters) <= MAX_SENT_ADAPTERS + 3
    affinity.observe([], 1000.0)
    assert not affinity.known_adapters
