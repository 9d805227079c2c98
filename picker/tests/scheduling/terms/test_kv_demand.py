"""KV cache demand of requests, observed and expected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.load.prefill_tracker import PrefillCounters
from picker.scheduling.terms.kv_cache import HALF_LIFE_S, MIN_EXPECTED_SHARE, KvDemand, pressure

CACHE_TOKENS = 16_000


def server(running: int, usage: float, *, prompt_tokens: float = 0.0) -> Endpoint:
    """A server whose cache holds `CACHE_TOKENS`, after ten prompts of `prompt_tokens` each."""
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


def test_the_demand_of_a_request_is_a_mean_over_the_fleet() -> None:
    """Weighted by requests, not by servers."""
    held = KvDemand()
    held.observe([server(10, 0.5), server(30, 0.5)], 0.0)
    assert held.tokens == 400.0


def test_a_burst_is_expected_to_have_the_mean_demand() -> None:
    """Thirty requests that have just arrived fill a twentieth. With the mean demand they will fill three quarters."""
    held = seen((0.0, server(10, 0.25)))
    assert held.usage(metrics(0.05), 30) == pytest.approx(MIN_EXPECTED_SHARE * 0.75)


def test_a_higher_reported_usage_is_used() -> None:
    """The server's requests are long."""
    held = seen((0.0, server(10, 0.25)))
    assert held.usage(metrics(0.9), 30) == 0.9


def test_observations_stay_while_nothing_runs() -> None:
    """A burst after a pause meets the same servers."""
    held = seen((0.0, server(10, 0.25)), (60.0, server(0, 0.0)), (3600.0, server(0, 0.0)))
    assert held.tokens == pytest.approx(400.0)


def test_observations_decay_with_new_ones() -> None:
    """Both have the same weight after the half-life."""
    held = seen((0.0, server(10, 0.25)), (HALF_LIFE_S, server(10, 0.75)))
    assert held.tokens == pytest.approx(800.0)


def test_a_response_holds_the_tokens_beyond_its_prompt() -> None:
    """0 if shared prompts save more than responses hold."""
    assert seen((0.0, server(10, 0.25, prompt_tokens=300.0))).answer_tokens == 100.0
    assert seen((0.0, server(10, 0.25, prompt_tokens=900.0))).answer_tokens == 0.0


def test_without_a_reported_cache_size_nothing_is_expected() -> None:
    """The reported usage is used."""
    silent = Endpoint("10.0.0.1:8000", "qwen", metrics=ServerMetrics(0, 10, 0.5))
    held = seen((0.0, silent))
    assert held.tokens == 0.0
    assert silent.metrics is not None
    assert held.usage(silent.metrics, 1000) == 0.5


@given(st.floats(0, 1), st.integers(0, 10_000), st.floats(0, 1), st.integers(0, 500))
def test_the_expected_usage_is_at_most_1(usage: float, requests: int, before: float, running: int) -> None:
    """It is never below the reported usage."""
    assert usage <= seen((0.0, server(running, before))).usage(metrics(usage), requests) <= 1.0


def test_pressure_grows_with_the_cache_and_the_queue() -> None:
    """1 while there is room, 3 at a full cache. A queue as long as the batch adds 1."""
    assert pressure(0.2, 0, 10) == 1.0
    assert pressure(1.0, 0, 10) == 3.0
    assert pressure(0.2, 10, 10) == 2.0
