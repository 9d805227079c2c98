"""Adapters, and pools that are sampled."""

from collections.abc import Sequence
from random import Random

from fleet import endpoint, request, scheduler
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.resources.inference import RoutingStrategy
from picker.scheduling.request import Ranking
from picker.scheduling.scheduler import FALLBACKS, FULL_SCAN_LIMIT
from picker.scheduling.terms.lora import FULL_TOKENS, LoraAffinity


def test_a_large_pool_is_balanced_by_sampling() -> None:
    """The most loaded of 500 has little more than the mean of 8."""
    fleet = [endpoint(i) for i in range(500)]
    deciding = scheduler(rng=Random(3))
    for _ in range(4000):
        ranking = deciding.schedule(request(tokens=100), fleet, 0)
        assert isinstance(ranking, Ranking)
        assert len(ranking.endpoints) == 1 + FALLBACKS
        ranking.endpoints[0].in_flight.requests += 1
    assert max(item.in_flight.requests for item in fleet) <= 11


def test_a_large_pool_finds_the_one_endpoint_that_has_the_prefix() -> None:
    """Every time, with either strategy."""
    fleet = [endpoint(i) for i in range(FULL_SCAN_LIMIT * 4)]
    for strategy in (RoutingStrategy.DEFAULT, RoutingStrategy.PREFIX_CACHE):
        deciding = scheduler(strategy)
        deciding.seen(fleet[77], (1, 2, 3))
        for _ in range(20):
            ranking = deciding.schedule(request(blocks=(1, 2, 3, 4)), fleet, 0)
            assert isinstance(ranking, Ranking)
            assert ranking.endpoints[0] is fleet[77]


def adapters(number: int, *active: str, max_loras: int = 2) -> Endpoint:
    created = endpoint(number)
    created.metrics = ServerMetrics(0, 1, 0.1, active_loras=frozenset(active), max_loras=max_loras)
    return created


def lora_costs(model: str, *fleet: Endpoint) -> Sequence[float] | None:
    affinity = LoraAffinity()
    affinity.observe(fleet)
    return affinity.tokens(model, fleet)


def test_an_adapter_goes_where_it_runs_then_where_a_slot_is_free() -> None:
    """Last to a server that is full of others."""
    costs = lora_costs("a", adapters(1, "a", "b"), adapters(2, "c"), adapters(3, "c", "d"))
    assert costs is not None
    assert costs[0] == 0 < costs[1] < costs[2] == FULL_TOKENS


def test_an_adapter_sent_since_the_scrape_uses_a_slot_at_once() -> None:
    """The server has no slot for another one."""
    filling, full = adapters(1, "a"), adapters(2, "b", "c")
    filling.in_flight.models["b"] = 1
    costs = lora_costs("c", filling, full)
    assert costs == [FULL_TOKENS, 0]


def test_a_name_that_is_no_adapter_prefers_no_server() -> None:
    """The base model runs on all servers."""
    assert lora_costs("base", adapters(1, "a"), adapters(2)) is None
