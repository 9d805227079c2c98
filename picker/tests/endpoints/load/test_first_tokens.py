"""Pending prompts, speed and foreign prompts as derived from scrapes."""

import pytest
from fleet import begin, endpoint, scrape
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.in_flight import CountedRequest, InFlightTracker
from picker.endpoints.load.prefill_tracker import PrefillCounters

START = PrefillCounters(1000.0, 300.0, 1_500_000.0, 1_500_000.0, 500_000.0)


def server(tracker: InFlightTracker) -> Endpoint:
    """A server that has run for long, scraped at second 0."""
    only = endpoint(1, scraped=False)
    tracker.scraped(only, ServerMetrics(0, 0, 0.0, progress=START))
    return only


def sent(
    tracker: InFlightTracker, where: Endpoint, *at_s: float, tokens: int = 1000, predicted_s: float = 0.0
) -> list[CountedRequest]:
    return [begin(tracker, where, tokens, 100, predicted_s, item) for item in at_s]


def test_the_oldest_prompts_are_removed_as_first_tokens_are_counted() -> None:
    tracker = InFlightTracker()
    only = server(tracker)
    for number, at_s in enumerate((0.1, 0.2, 0.3)):
        begin(tracker, only, 10**number, 100, now_s=at_s)
    scrape(tracker, only, 1.0, first_tokens=2, seconds=0.4)
    assert (only.in_flight.prefill_tokens, only.in_flight.requests) == (100, 3)
    scrape(tracker, only, 2.0)
    assert only.in_flight.prefill_tokens == 100


def test_a_request_of_several_sequences_has_as_many_first_tokens() -> None:
    tracker = InFlightTracker()
    only = server(tracker)
    begin(tracker, only, 1000, 400, now_s=0.1, sequences=4)
    sent(tracker, only, 0.2, 0.3)
    scrape(tracker, only, 1.0, first_tokens=5, seconds=1.0)
    assert only.in_flight.prefill_tokens == 1000


def test_a_fully_cached_prompt_has_a_first_token_too() -> None:
    """It is counted like any other."""
    tracker = InFlightTracker()
    only = server(tracker)
    sent(tracker, only, 0.1, tokens=0)
    sent(tracker, only, 0.2)
    scrape(tracker, only, 1.0, first_tokens=1, seconds=0.1)
    assert only.in_flight.prefill_tokens == 1000


def test_a_request_that_generates_nothing_has_no_first_token() -> None:
    """An embedding counts until its end, and does not use up another prompt's first token."""
    tracker = InFlightTracker()
    only = server(tracker)
    begin(tracker, only, 70, 0, now_s=0.1)
    sent(tracker, only, 0.2)
    scrape(tracker, only, 1.0, first_tokens=1, seconds=0.1)
    assert only.in_flight.prefill_tokens == 70


@pytest.mark.parametrize(("answered", "left"), [(True, 1000), (False, 0)])
def test_a_first_token_between_two_scrapes_is_assigned_to_its_prompt(answered: bool, left: int) -> None:
    """A client that disconnects before the response has no first token."""
    tracker = InFlightTracker()
    only = server(tracker)
    first, _ = sent(tracker, only, 0.1, 0.2)
    if answered:
        first.count_response(failed=False)
    first.uncount(0.5)
    scrape(tracker, only, 1.0, first_tokens=1, seconds=0.1)
    assert only.in_flight.prefill_tokens == left


def test_a_restarted_server_has_computed_no_pending_prompt() -> None:
    """Counters that went back change no estimate except the cache's. From then on they count."""
    tracker = InFlightTracker()
    emptied: list[Endpoint] = []
    tracker.on_restarted = emptied.append
    only = server(tracker)
    sent(tracker, only, 0.1, 0.2, predicted_s=0.2)
    tracker.scraped(only, ServerMetrics(0, 2, 0.0, progress=PrefillCounters(1.0, 0.1, 10.0), scraped_at_s=1.0))
    assert emptied == [only]
    assert only.in_flight.prefill_tokens == 2000
    assert only.speed.slowness is None
    scrape(tracker, only, 2.0, first_tokens=1, seconds=1.5)
    assert only.in_flight.prefill_tokens == 1000


def test_without_first_token_counters_prompts_are_pending_until_they_end() -> None:
    tracker = InFlightTracker()
    only = endpoint(1)
    [counted] = sent(tracker, only, 0.1, predicted_s=0.2)
    for now_s in (1.0, 2.0):
        tracker.scraped(only, ServerMetrics(0, 1, 0.0, scraped_at_s=now_s))
    assert only.in_flight.prefill_tokens == 1000
    counted.uncount(3.0)
    assert only.in_flight.prefill_tokens == 0


def test_first_tokens_before_the_first_scrape_are_made_up_for() -> None:
    """Two are older than the first scrape. The counted one came after second 1 and took 0.2 s."""
    tracker = InFlightTracker()
    only = endpoint(1, scraped=False)
    sent(tracker, only, 0.1, 0.2, 1.9)
    scrape(tracker, only, 1.0)
    scrape(tracker, only, 2.0, first_tokens=1, seconds=0.2)
    assert only.in_flight.prefill_tokens == 1000


def test_foreign_first_tokens_do_not_count_for_own_prompts() -> None:
    """Ten first tokens took 0.3 s each, so a prompt that is younger than that is still pending."""
    tracker = InFlightTracker()
    only = server(tracker)
    scrape(tracker, only, 1.0, others=10)
    sent(tracker, only, 1.2, 1.9)
    scrape(tracker, only, 2.0, first_tokens=10, seconds=3.0, others=10)
    assert only.in_flight.prefill_tokens == 1000


def test_the_speed_is_estimated_from_the_reported_times() -> None:
    tracker = InFlightTracker()
    only = server(tracker)
    sent(tracker, only, 0.1, 0.2, predicted_s=0.3)
    scrape(tracker, only, 1.0, first_tokens=2, seconds=0.6)
    assert only.speed.slowness == pytest.approx(1.0)


def test_no_speed_is_estimated_if_the_work_ahead_is_unknown() -> None:
    """The server reports only the sum of the times."""
    tracker = InFlightTracker()
    only = server(tracker)
    sent(tracker, only, 0.1, predicted_s=0.3)
    sent(tracker, only, 0.2)
    scrape(tracker, only, 1.0, first_tokens=2, seconds=0.6)
    assert only.speed.slowness is None
    assert only.in_flight.prefill_tokens == 0


@pytest.mark.parametrize(("before", "then"), [(1, 0), (0, 1)])
def test_no_speed_is_estimated_from_first_tokens_during_a_queue(before: int, then: int) -> None:
    """Their times include the wait for room: a burst that fills its cache would make a fast server look slow."""
    tracker = InFlightTracker()
    only = server(tracker)
    sent(tracker, only, 0.1, predicted_s=0.3)
    scrape(tracker, only, 1.0, queue_depth=before)
    scrape(tracker, only, 2.0, first_tokens=1, seconds=1.5, queue_depth=then)
    assert only.speed.slowness is None
    assert only.in_flight.prefill_tokens == 0


def test_a_prompt_that_is_expected_to_be_computed_does_not_count() -> None:
    """Also without a scrape since then. The next scrape does not count another prompt as computed in its place."""
    tracker = InFlightTracker()
    only = server(tracker)
    only.speed.learn(0.2, 0.2, 0.0)
    sent(tracker, only, 0.1, predicted_s=0.2)
    sent(tracker, only, 0.2, predicted_s=0.4)
    tracker.expect(0.29)
    assert only.in_flight.prefill_tokens == 2000
    tracker.expect(0.31)
    assert only.in_flight.prefill_tokens == 1000
    scrape(tracker, only, 0.4, first_tokens=1, seconds=0.2)
    assert only.in_flight.prefill_tokens == 1000


def test_foreign_prompts_count_in_prefill_and_in_the_queue() -> None:
    """In prefill: looked up without a first token. In the queue: as long as own prompts, less their cached part."""
    tracker = InFlightTracker()
    only = server(tracker)
    scrape(tracker, only, 1.0, looked_up_tokens=9000, others=3, queue_depth=1)
    assert only.foreign_prefill_tokens == pytest.approx((9000 + 1500) * (1 - 500 / 1509), abs=1)
    [_] = sent(tracker, only, 1.5, tokens=4000)
    scrape(tracker, only, 2.0, others=2)
    assert only.foreign_prefill_tokens == pytest.approx(9000 * (1 - 500 / 1509) - 4000, abs=1)
    scrape(tracker, only, 3.0, first_tokens=1, seconds=2.5, prompt_tokens=9000)
    assert only.foreign_prefill_tokens == 0


def test_requests_cancelled_in_their_prefill_are_not_pending() -> None:
    """Their tokens were looked up and have no first token, so the counters keep a difference."""
    tracker = InFlightTracker()
    only = server(tracker)
    scrape(tracker, only, 1.0, looked_up_tokens=9000, others=1)
    assert only.foreign_prefill_tokens > 0
    for now_s in range(2, 100):
        scrape(tracker, only, now_s, others=1)
    assert only.foreign_prefill_tokens == 0


counts = st.integers(0, 5)


@given(st.lists(st.tuples(st.sampled_from(["send", "compute", "end", "scrape"]), counts), max_size=60))
def test_a_server_that_computes_in_order_is_tracked_exactly(steps: list[tuple[str, int]]) -> None:
    """After a scrape the tracker holds exactly the prompts that the server has not computed."""
    tracker = InFlightTracker()
    only = server(tracker)
    waiting: list[tuple[int, float, CountedRequest]] = []
    running: list[CountedRequest] = []
    done, seconds, now_s = 0, 0.0, 0.0
    for step, count in [*steps, ("scrape", 0)]:
        now_s += 0.1
        match step:
            case "send":
                tokens = 2 ** len(waiting) * (count + 1)
                waiting.append((tokens, now_s, begin(tracker, only, tokens, 10, now_s=now_s)))
            case "compute":
                for _, at_s, counted in waiting[:count]:
                    counted.count_response(failed=False)
                    running.append(counted)
                    done, seconds = done + 1, seconds + now_s - at_s
                del waiting[:count]
            case "end":
                for counted in running[:count]:
                    counted.uncount(now_s)
                del running[:count]
            case _:
                scrape(tracker, only, now_s, first_tokens=done, seconds=seconds)
                done, seconds = 0, 0.0
                assert only.in_flight.prefill_tokens == sum(tokens for tokens, _, _ in waiting)
