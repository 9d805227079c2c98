"""What requests hold of a KV cache, and what they are expected to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.load.prefill_tracker import PrefillCounters
from picker.scheduling.terms.kv_cache import HALF_LIFE_S, MIN_EXPECTED_SHARE, KvDemand, pressure

CACHE_TOKENS = 16_000


def server(running: int, usage: float, *, prompt_tokens: float = 0.0) -> Endpoint:
    """One whose cache holds `CACHE_TOKENS`, after ten prompts of `prompt_tokens` each."""
    progress = PrefillCounters(10.0, 1.0, 10.0 * prompt_tokens)
    metrics = ServerMetrics(0, running, usage, block_size_tokens=16, kv_blocks=CACHE_TOKENS // 16, progress=progress)
    return Endpoint(f"10.0.0.{running}:8000", "qwen", metrics=metrics)


def metrics(usage: float) -> ServerMetrics:
    reported = server(1, usage).metrics
    assert reported is not None
    return reported


def seen(*observations: tuple[float, Endpoint]) -> KvDemand:
    held = KvDemand()
    for at_s, endpoint in observations:
        held.observe([endpoint], at_s)
    return held


def test_what_a_request_holds_is_a_mean_over_the_fleet() -> None:
    """By requests, not by servers."""
    held = KvDemand()
    held.observe([server(10, 0.5), server(30, 0.5)], 0.0)
    assert held.tokens == 400.0


def test_a_burst_is_expected_to_hold_what_others_did() -> None:
    """Thirty requests that have just come fill a twentieth; as those before them they will fill three quarters."""
    held = seen((0.0, server(10, 0.25)))
    assert held.usage(metrics(0.05), 30) == pytest.approx(MIN_EXPECTED_SHARE * 0.75)


def test_the_servers_own_word_counts_where_it_says_more() -> None:
    """Its requests are long ones."""
    held = seen((0.0, server(10, 0.25)))
    assert held.usage(metrics(0.9), 30) == 0.9


def test_what_was_seen_stays_while_nothing_runs() -> None:
    """A burst after a pause finds the same servers."""
    held = seen((0.0, server(10, 0.25)), (60.0, server(0, 0.0)), (3600.0, server(0, 0.0)))
    assert held.tokens == pytest.approx(400.0)


def test_what_was_seen_fades_as_other_requests_come() -> None:
    """Half and half after the half-life."""
    held = seen((0.0, server(10, 0.25)), (HALF_LIFE_S, server(10, 0.75)))
    assert held.tokens == pytest.approx(800.0)


def test_an_answer_takes_what_its_prompt_does_not() -> None:
    """And nothing where prompts share more than answers take."""
    assert seen((0.0, server(10, 0.25, prompt_tokens=300.0))).answer_tokens == 100.0
    assert seen((0.0, server(10, 0.25, prompt_tokens=900.0))).answer_tokens == 0.0


def test_nothing_is_expected_where_nobody_tells_the_size_of_a_cache() -> None:
    """Then the server's own word is all there is."""
    silent = Endpoint("10.0.0.1:8000", "qwen", metrics=ServerMetrics(0, 10, 0.5))
    held = seen((0.0, silent))
    assert held.tokens == 0.0
    assert silent.metrics is not None
    assert held.usage(silent.metrics, 1000) == 0.5


@given(st.floats(0, 1), st.integers(0, 10_000), st.floats(0, 1), st.integers(0, 500))
def test_no_cache_is_more_than_full(usage: float, requests: int, before: float, running: int) -> None:
    """Whatever is expected of it, nor less full than it is."""
    assert usage <= seen((0.0, server(running, before))).usage(metrics(usage), requests) <= 1.0


def test_pressure_grows_with_the_cache_and_the_queue() -> None:
    """1 while there is room, three times as bad at the brim, and a queue as long as the batch doubles it."""
    assert pressure(0.2, 0, 10) == 1.0
    assert pressure(1.0, 0, 10) == 3.0
    assert pressure(0.2, 10, 10) == 2.0
