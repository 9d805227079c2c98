"""The preferences of each strategy."""

from random import Random

import pytest
from fleet import endpoint, request, scheduler
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import Endpoint
from picker.rejection import Rejection, RejectReason
from picker.resources.inference import RoutingStrategy
from picker.scheduling.request import Ranking
from picker.scheduling.scheduler import FALLBACKS


def first(ranking: Ranking | Rejection) -> Endpoint:
    assert isinstance(ranking, Ranking)
    return ranking.endpoints[0]


def test_default_takes_the_endpoint_with_the_fewest_tokens_in_flight() -> None:
    """Equal numbers of requests, unequal prompts."""
    heavy, light = endpoint(1, requests=2, tokens=8000), endpoint(2, requests=2, tokens=2000)
    assert first(scheduler().schedule(request(), [heavy, light], 0)) is light


def test_default_counts_foreign_requests() -> None:
    """A scrape that counts more than was in flight at its time shows requests of other clients."""
    shared, own = endpoint(1, running=20), endpoint(2, requests=3, running=3, in_flight_at_scrape=3)
    assert first(scheduler().schedule(request(), [shared, own], 0)) is own


def test_default_spreads_requests_between_two_scrapes() -> None:
    """In-flight requests count at once: twenty requests spread over four equal endpoints."""
    fleet = [endpoint(i, running=0) for i in range(4)]
    deciding = scheduler()
    for _ in range(20):
        chosen = first(deciding.schedule(request(), fleet, 0))
        chosen.in_flight.requests += 1
        chosen.in_flight.prefill_tokens += 1000
    assert [item.in_flight.requests for item in fleet] == [5, 5, 5, 5]


def test_default_avoids_a_server_with_a_queue() -> None:
    """Its batch is as large as the other's, and more requests wait."""
    queueing = endpoint(1, running=10, queue_depth=10)
    free = endpoint(2, running=18)
    assert first(scheduler().schedule(request(), [queueing, free], 0)) is free


def test_a_queue_costs_uncached_tokens_only() -> None:
    """A nearly cached prompt goes to the queueing server. Another one goes to a long batch without a queue."""
    deciding = scheduler()
    queueing = endpoint(1, requests=5, running=3, queue_depth=2, in_flight_at_scrape=5)
    free = endpoint(2, requests=25, running=25, in_flight_at_scrape=25)
    deciding.seen(queueing, tuple(range(1, 32)))
    assert first(deciding.schedule(request(tokens=2048), [queueing, free], 0)) is free
    known = request(tokens=2048, blocks=tuple(range(1, 33)))
    assert first(deciding.schedule(known, [queueing, free], 0)) is queueing


def test_a_queue_that_fits_into_the_next_step_costs_nothing() -> None:
    """Short prompts that arrive together are computed together, so the smaller batch is better."""
    burst = endpoint(1, requests=16, running=10, queue_depth=6, in_flight_at_scrape=16)
    busy = endpoint(2, requests=40, running=40, in_flight_at_scrape=40)
    assert first(scheduler().schedule(request(tokens=200), [burst, busy], 0)) is burst


def test_a_short_queue_costs_if_the_cache_has_no_room_for_it() -> None:
    """No step computes it before a request there has ended."""
    full = endpoint(1, requests=9, running=8, queue_depth=1, kv=0.98, kv_blocks=2_000, in_flight_at_scrape=9)
    as_full = endpoint(2, requests=30, running=30, kv=0.98, kv_blocks=2_000, in_flight_at_scrape=30)
    assert first(scheduler().schedule(request(tokens=800), [full, as_full], 0)) is as_full
    roomy = endpoint(3, requests=9, running=8, queue_depth=1, kv=0.2, kv_blocks=2_000, in_flight_at_scrape=9)
    as_roomy = endpoint(4, requests=30, running=30, kv=0.2, kv_blocks=2_000, in_flight_at_scrape=30)
    assert first(scheduler().schedule(request(tokens=800), [roomy, as_roomy], 0)) is roomy


def test_an_old_queue_depth_has_little_weight() -> None:
    """It may be gone: between two rare scrapes all requests would go to the one server without a queue."""
    queueing = endpoint(1, requests=9, running=6, queue_depth=3, in_flight_at_scrape=9)
    free = endpoint(2, requests=24, running=24, in_flight_at_scrape=24)
    assert first(scheduler().schedule(request(), [queueing, free], 0)) is free
    assert first(scheduler().schedule(request(), [queueing, free], 30.0)) is queueing


@pytest.mark.parametrize(("running", "takes_more"), [(60, True), (250, False)])
def test_a_fast_server_gets_requests_until_its_steps_are_as_long(running: int, takes_more: bool) -> None:
    """Three times as fast, it decodes 60 sequences sooner than the other decodes 20, and 250 later."""
    slow = endpoint(1, requests=20, running=20, in_flight_at_scrape=20)
    fast = endpoint(2, requests=running, running=running, in_flight_at_scrape=running)
    for _ in range(200):
        slow.speed.learn(0.4, 0.6, 0.0)
        fast.speed.learn(0.4, 0.2, 0.0)
    chosen = first(scheduler().schedule(request(), [slow, fast], 0))
    assert chosen is (fast if takes_more else slow)


def test_few_errors_weigh_no_more_than_few_requests() -> None:
    """A server that has recovered is used again before its errors are forgotten."""
    recovered, busy = endpoint(1), endpoint(2, requests=20, running=20, in_flight_at_scrape=20)
    recovered.failing = 0.05
    assert first(scheduler().schedule(request(), [recovered, busy], 0)) is recovered


def test_the_larger_cache_gets_more_requests() -> None:
    """Each of them fills a smaller share of it."""
    small = endpoint(1, requests=9, running=9, kv=0.24, kv_blocks=5_800, in_flight_at_scrape=9)
    large = endpoint(2, requests=13, running=13, kv=0.07, kv_blocks=29_000, in_flight_at_scrape=13)
    assert first(scheduler().schedule(request(), [small, large], 0)) is large
    alike = endpoint(3, requests=13, running=13, kv=0.24, kv_blocks=5_800, in_flight_at_scrape=13)
    assert first(scheduler().schedule(request(), [small, alike], 0)) is small


def test_a_burst_goes_where_it_will_have_room() -> None:
    """None of it is in the caches yet. The larger cache gets more of it nevertheless."""
    deciding = scheduler()
    small = endpoint(1, running=10, kv=0.4, kv_blocks=320, in_flight_at_scrape=10)
    large = endpoint(2, running=10, kv=0.07, kv_blocks=1_876, in_flight_at_scrape=10)
    deciding.schedule(request(tokens=100), [small, large], 0)
    burst = [endpoint(1, kv_blocks=320), endpoint(2, kv_blocks=1_876)]
    for number in range(60):
        chosen = first(deciding.schedule(request(tokens=100), burst, 1.0 + 0.005 * number))
        chosen.in_flight.requests += 1
        chosen.in_flight.prefill_tokens += 100
    assert burst[1].in_flight.requests > 1.2 * burst[0].in_flight.requests


def test_young_requests_are_expected_to_grow() -> None:
    """Equal caches: the one that holds more tokens of fewer requests will have room sooner."""
    old = endpoint(1, requests=10, running=10, kv=0.2, kv_blocks=5_800, in_flight_at_scrape=10)
    young = endpoint(2, requests=12, running=12, kv=0.05, kv_blocks=5_800, in_flight_at_scrape=12)
    assert first(scheduler().schedule(request(), [old, young], 0)) is old


def test_an_unknown_cache_size_is_replaced_by_the_reported_usage() -> None:
    """By its usage and its number of requests."""
    full = endpoint(1, requests=10, running=10, kv=0.25, in_flight_at_scrape=10)
    empty = endpoint(2, requests=11, running=11, kv=0.02, in_flight_at_scrape=11)
    assert first(scheduler().schedule(request(), [full, empty], 0)) is empty


def test_default_uses_in_flight_requests_without_metrics() -> None:
    """An endpoint that was never scraped is neither idle nor unusable."""
    unknown, busy = endpoint(1, requests=1, tokens=1000, scraped=False), endpoint(2, requests=9, tokens=9000, running=9)
    assert first(scheduler().schedule(request(), [unknown, busy], 0)) is unknown


def test_prefix_cache_returns_to_the_endpoint_that_has_the_prefix() -> None:
    """Even if another is less loaded."""
    deciding = scheduler(RoutingStrategy.PREFIX_CACHE)
    has, idle = endpoint(1, requests=2), endpoint(2)
    deciding.seen(has, (1, 2, 3))
    assert first(deciding.schedule(request(blocks=(1, 2, 3, 4)), [has, idle], 0)) is has


def test_prefix_cache_takes_the_longest_prefix() -> None:
    """Two have its first block, and one has more of it."""
    deciding = scheduler(RoutingStrategy.PREFIX_CACHE)
    short, long = endpoint(1), endpoint(2, requests=1)
    deciding.seen(short, (1,))
    deciding.seen(long, (1, 2, 3))
    assert first(deciding.schedule(request(blocks=(1, 2, 3, 4)), [short, long], 0)) is long


def test_prefix_cache_spreads_a_hot_prefix() -> None:
    """The load of an endpoint outweighs its cached prefix."""
    deciding = scheduler(RoutingStrategy.PREFIX_CACHE)
    fleet = [endpoint(i) for i in range(4)]
    for _ in range(100):
        chosen = first(deciding.schedule(request(blocks=(1, 2, 3)), fleet, 0))
        chosen.in_flight.requests += 1
        deciding.seen(chosen, (1, 2, 3))
    counts = sorted(item.in_flight.requests for item in fleet)
    assert sum(counts) == 100
    assert counts[-1] <= 1.25 * 25 + 5


def test_round_robin_takes_each_in_turn() -> None:
    """Whatever their load."""
    deciding = scheduler(RoutingStrategy.ROUND_ROBIN)
    fleet = [endpoint(i, requests=i) for i in range(3)]
    turns = [fleet.index(first(deciding.schedule(request(), fleet, 0))) for _ in range(6)]
    assert turns == [0, 1, 2, 0, 1, 2]


def test_least_request_counts_requests_alone() -> None:
    """As Envoy's least-request balancer does, with full information."""
    few, many = endpoint(1, requests=1, tokens=90_000), endpoint(2, requests=2, tokens=10)
    assert first(scheduler(RoutingStrategy.LEAST_REQUEST).schedule(request(), [many, few], 0)) is few


def test_random_uses_every_endpoint() -> None:
    """Deterministic for a seed."""
    fleet = [endpoint(i) for i in range(3)]
    deciding = scheduler(RoutingStrategy.RANDOM)
    assert {first(deciding.schedule(request(), fleet, 0)).address for _ in range(50)} == {e.address for e in fleet}


def test_an_endpoint_that_refuses_connections_comes_last() -> None:
    """It stays in the list: it may be available again."""
    gone, busy = endpoint(1, refused=True), endpoint(2, requests=50, tokens=50_000)
    ranking = scheduler().schedule(request(), [gone, busy], 0)
    assert isinstance(ranking, Ranking)
    assert ranking.endpoints == (busy, gone)


def test_the_ranking_has_a_bounded_number_of_fallbacks() -> None:
    """It is sent with every request."""
    ranking = scheduler().schedule(request(), [endpoint(i) for i in range(20)], 0)
    assert isinstance(ranking, Ranking)
    assert len(ranking.endpoints) == 1 + FALLBACKS


def test_without_endpoints_the_request_is_rejected() -> None:
    """With its own reason."""
    refusal = scheduler().schedule(request(), [], 0)
    assert isinstance(refusal, Rejection)
    assert refusal.reason is RejectReason.NO_READY_ENDPOINTS


def test_the_subset_is_matched_with_its_port() -> None:
    """An address with another port is another endpoint."""
    fleet = [endpoint(1), endpoint(2)]
    ranking = scheduler().schedule(request(subset=frozenset({fleet[1].address})), fleet, 0)
    assert isinstance(ranking, Ranking)
    assert ranking.endpoints == (fleet[1],)
    other_port = frozenset({fleet[1].address.replace("8000", "8001")})
    refusal = scheduler().schedule(request(subset=other_port), fleet, 0)
    assert isinstance(refusal, Rejection)
    assert refusal.reason is RejectReason.SUBSET_EMPTY


def test_sheddable_requests_are_rejected_when_every_server_is_busy() -> None:
    """One server with capacity is enough. Critical requests are never rejected."""
    full, roomy = endpoint(1, running=50, queue_depth=9, kv=0.95), endpoint(2, running=10, kv=0.4)
    sheddable = request(priority=-1)
    refusal = scheduler().schedule(sheddable, [full], 0)
    assert isinstance(refusal, Rejection)
    assert refusal.reason is RejectReason.SATURATED
    assert isinstance(scheduler().schedule(sheddable, [full, roomy], 0), Ranking)
    assert isinstance(scheduler().schedule(request(priority=1), [full], 0), Ranking)


def test_standard_requests_are_rejected_later_than_sheddable_ones() -> None:
    """Only if the queues are minutes long."""
    busy, hopeless = endpoint(1, running=50, queue_depth=20, kv=1.0), endpoint(2, running=50, queue_depth=200, kv=1.0)
    assert isinstance(scheduler().schedule(request(), [busy, hopeless], 0), Ranking)
    assert isinstance(scheduler().schedule(request(), [hopeless], 0), Rejection)


def test_no_request_is_rejected_because_of_old_metrics() -> None:
    """They do not show the present load."""
    full = endpoint(1, running=50, queue_depth=200, kv=1.0)
    assert isinstance(scheduler().schedule(request(priority=-1), [full], 60), Ranking)


loads = st.builds(
    endpoint,
    st.just(0),
    requests=st.integers(0, 500),
    tokens=st.integers(0, 10**7),
    running=st.integers(0, 300),
    queue_depth=st.integers(0, 300),
    kv=st.floats(0, 1),
    kv_blocks=st.none() | st.integers(0, 30_000),
    in_flight_at_scrape=st.integers(0, 500),
    refused=st.booleans(),
    scraped=st.booleans(),
)


@given(
    st.sampled_from(RoutingStrategy),
    st.lists(loads, max_size=12),
    st.integers(-(2**31), 2**31 - 1),
    st.lists(st.integers(0, 50), max_size=8).map(tuple),
    st.integers(0, 10**6),
)
def test_any_state_gives_a_ranking_without_repeats_or_a_rejection(
    strategy: RoutingStrategy, fleet: list[Endpoint], priority: int, blocks: tuple[int, ...], tokens: int
) -> None:
    """For all strategies and requests."""
    deciding = scheduler(strategy, Random(0))
    if fleet:
        deciding.seen(fleet[0], blocks)
    decision = deciding.schedule(request(priority=priority, blocks=blocks, tokens=tokens), fleet, 0)
    if isinstance(decision, Ranking):
        assert 1 <= len(decision.endpoints) <= min(len(fleet), 1 + FALLBACKS)
        assert len(set(map(id, decision.endpoints))) == len(decision.endpoints)
        assert all(any(chosen is item for item in fleet) for chosen in decision.endpoints)
        assert decision.cached_tokens <= max(tokens, 0)
    else:
        assert decision.reason in (RejectReason.NO_READY_ENDPOINTS, RejectReason.SATURATED)
        assert priority <= 0 or not fleet


@given(st.lists(loads, min_size=2, max_size=8, unique_by=lambda e: e.in_flight.prefill_tokens), st.randoms())
def test_the_order_in_which_endpoints_are_listed_does_not_matter(fleet: list[Endpoint], shuffler: Random) -> None:
    """Except for equal costs."""
    shuffled = fleet[:]
    shuffler.shuffle(shuffled)
    costs = scheduler().costs(request(), fleet)
    again = scheduler().costs(request(), shuffled)
    assert [again[shuffled.index(item)] for item in fleet] == list(costs)
