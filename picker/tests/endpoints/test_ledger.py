"""What is in flight, and what is learned from it."""

import pytest
from fleet import endpoint
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import InFlight
from picker.endpoints.ledger import Ledger, Ticket
from picker.endpoints.pace import Pace

STEPS = ("first_byte", "failed", "end", "move")


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(STEPS)), max_size=40))
def test_counts_are_never_negative_and_are_0_at_the_end(steps: list[tuple[int, str]]) -> None:
    """Whatever comes, in any order and any number of times."""
    ledger, fleet = Ledger(), [endpoint(1), endpoint(2)]
    tickets = [ledger.begin(fleet[n % 2], 100 * n, 10, 500.0, 0.0, f"model-{n % 2}") for n in range(5)]

    def take(ticket: Ticket, step: str) -> None:
        match step:
            case "first_byte":
                ticket.first_byte(1.0)
            case "failed":
                ticket.first_byte(1.0, failed=True)
            case "end":
                ticket.end(2.0)
            case _:
                ticket.moved_to(fleet[1])

    for number, step in steps:
        take(tickets[number], step)
        for counts in (*(each.in_flight for each in fleet), ledger.total):
            assert min(counts.requests, counts.prefill_tokens, counts.decode_tokens, *counts.models.values(), 0) == 0
    for ticket in tickets:
        ticket.end(3.0)
    assert [each.in_flight for each in fleet] == [InFlight(), InFlight()]
    assert ledger.total == InFlight()


def test_negative_tokens_are_refused() -> None:
    """They would hide other requests."""
    with pytest.raises(ValueError, match="negative"):
        Ledger().begin(endpoint(1), -1, 0)


def test_a_slow_endpoint_is_told_from_the_others_after_a_few_answers() -> None:
    """Half as fast counts as nearly twice as slow."""
    slow = Pace()
    for _ in range(30):
        slow.learn(2000, 0.8, 0.0)
    assert 1.7 < slow.against(0.0002, 0.0) < 2.0


def test_one_slow_answer_is_no_slow_endpoint() -> None:
    """It may have waited for something."""
    pace = Pace()
    pace.learn(1000, 0.4, 0.0)
    assert pace.against(0.0002, 0.0) < 1.3


def test_an_endpoint_that_has_answered_nothing_is_like_the_others() -> None:
    """Neither avoided nor sought."""
    assert Pace().against(0.0002, 0.0) == 1.0


def test_an_error_teaches_no_pace() -> None:
    """It comes at once, whatever the server's speed."""
    ledger, only = Ledger(), endpoint(1)
    ledger.begin(only, 1000, 10, 1000.0, 0.0).first_byte(0.001, failed=True)
    assert only.pace.seconds_per_token is None
    assert only.failing > 0


def test_the_rate_of_ends_is_learned_while_there_is_something_to_do() -> None:
    """An idle hour says nothing."""
    ledger, only = Ledger(), endpoint(1)
    before_s = only.drain.interval_s
    ledger.begin(only, 10, 10, 0.0, 0.0).end(1.0)
    ledger.begin(only, 10, 10, 0.0, 3600.0).end(3601.0)
    assert only.drain.interval_s == before_s
    tickets = [ledger.begin(only, 10, 10) for _ in range(100)]
    for number, ticket in enumerate(tickets):
        ticket.end(4000.0 + 0.1 * number)
    assert only.drain.interval_s == pytest.approx(0.1, abs=0.02)
