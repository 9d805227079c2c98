"""Counts of in-flight requests, and estimates of speed."""

from random import Random

import pytest
from fleet import begin, endpoint, scrape
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import InFlight
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.load.speed import SpeedEstimate

STEPS = ("scrape", "expect", "headers", "end", "move")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(STEPS)), max_size=40), st.integers(0, 3))
def test_counts_are_never_negative_and_are_0_at_the_end(steps: list[tuple[int, str]], others: int) -> None:
    """For any order and number of steps, and whatever the scrapes count."""
    tracker, fleet = InFlightTracker(), [endpoint(1), endpoint(2)]
    fleet[0].speed.learn(0.2, 0.5, 0.0)
    requests = [
        begin(tracker, fleet[n % 2], 100 * n, 10 * (n % 4), 0.1, 0.0, f"model-{n % 2}", 1 + n % 3) for n in range(6)
    ]

    def take(number: int, step: str, now_s: float) -> None:
        match step:
            case "scrape":
                tokens = 100 * number
                scrape(
                    tracker,
                    fleet[0],
                    now_s,
                    first_tokens=number,
                    seconds=0.3,
                    prompt_tokens=tokens,
                    others=others,
                )
            case "expect":
                tracker.expect(now_s)
            case "headers":
                requests[number].count_response(failed=number == 1)
            case "end":
                requests[number].uncount(now_s)
            case _:
                requests[number].move_to(fleet[1])

    for index, (number, step) in enumerate(steps):
        take(number, step, 0.1 * index)
        for counts in (*(item.in_flight for item in fleet), tracker.total):
            assert min(counts.requests, counts.prefill_tokens, counts.decode_tokens, *counts.models.values(), 0) == 0
        assert sum(item.in_flight.prefill_tokens for item in fleet) == tracker.total.prefill_tokens
    for counted in requests:
        counted.uncount(3.0)
    assert [item.in_flight for item in fleet] == [InFlight(), InFlight()]
    assert tracker.total == InFlight()


def test_each_sequence_of_a_request_counts_as_one_in_flight() -> None:
    """As the server counts it."""
    tracker, (where, other) = InFlightTracker(), (endpoint(1), endpoint(2))
    counted = begin(tracker, where, 100, 40, model="m", sequences=4)
    assert where.in_flight == InFlight(4, 100, 40, {"m": 4})
    counted.move_to(other)
    assert (where.in_flight, other.in_flight) == (InFlight(), InFlight(4, 100, 40, {"m": 4}))
    counted.uncount(1.0)
    assert other.in_flight == tracker.total == InFlight()


def test_negative_tokens_are_refused() -> None:
    """They would hide other requests."""
    with pytest.raises(ValueError, match="negative"):
        begin(InFlightTracker(), endpoint(1), -1, 0)


def test_a_slow_endpoint_is_detected_after_a_few_responses() -> None:
    """Half as fast counts as nearly twice as slow."""
    slow = SpeedEstimate()
    for _ in range(30):
        slow.learn(0.4, 0.8, 0.0)
    assert 1.7 < slow.slowdown_vs(1.0, 0.0) < 2.0


def test_one_slow_response_makes_no_slow_endpoint() -> None:
    """It may have waited for something."""
    speed = SpeedEstimate()
    speed.learn(0.2, 0.4, 0.0)
    assert speed.slowdown_vs(1.0, 0.0) < 1.3


def test_an_endpoint_without_responses_has_no_slowness() -> None:
    """It is neither avoided nor preferred."""
    assert SpeedEstimate().slowdown_vs(1.0, 0.0) == 1.0


@pytest.mark.parametrize("scatter", [0.1, 0.3, 1.0])
def test_differences_within_chance_are_hardly_slowness(scatter: float) -> None:
    """First tokens of equal cards scatter, on a shared machine by as much as they take."""
    chance, slowdowns = Random(1), list[float]()
    for _ in range(200):
        speed = SpeedEstimate()
        for _ in range(150):
            speed.learn(0.4, 0.4 * max(0.1, chance.gauss(1.0, scatter)), 0.0)
        slowdowns.append(speed.slowdown_vs(1.0, 0.0))
    assert sum(item == 1.0 for item in slowdowns) >= 180
    assert 0.75 < min(slowdowns) <= max(slowdowns) < 1.25


def test_a_steady_difference_counts_even_if_small() -> None:
    """A card that always takes a fifth more is another card."""
    speed = SpeedEstimate()
    for number in range(200):
        speed.learn(0.4, (0.46, 0.5)[number % 2], 0.0)
    assert 1.15 < speed.slowdown_vs(1.0, 0.0) < 1.2


def test_an_old_estimate_has_little_weight() -> None:
    """A slow endpoint is tried again, and a fast one is not overrun."""
    slow, fast = SpeedEstimate(), SpeedEstimate()
    for _ in range(200):
        slow.learn(0.4, 1.6, 0.0)
        fast.learn(0.4, 0.1, 0.0)
    slow_now, fast_now = slow.slowdown_vs(1.0, 0.0), fast.slowdown_vs(1.0, 0.0)
    assert slow_now > slow.slowdown_vs(1.0, 30.0) > slow.slowdown_vs(1.0, 300.0) == 1.0
    assert fast_now < fast.slowdown_vs(1.0, 60.0) < fast.slowdown_vs(1.0, 300.0) == 1.0


def test_the_completion_rate_is_estimated_while_requests_are_there() -> None:
    """An idle hour does not count."""
    tracker, only = InFlightTracker(), endpoint(1)
    before_s = only.drain.interval_s
    begin(tracker, only, 10, 10, 0.0, 0.0).uncount(1.0)
    begin(tracker, only, 10, 10, 0.0, 3600.0).uncount(3601.0)
    assert only.drain.interval_s == before_s
    requests = [begin(tracker, only, 10, 10) for _ in range(100)]
    for number, counted in enumerate(requests):
        counted.uncount(4000.0 + 0.1 * number)
    assert only.drain.interval_s == pytest.approx(0.1, abs=0.02)
