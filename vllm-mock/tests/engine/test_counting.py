"""When counters move, where the recordings' pages do not tell."""

import engines
import pytest
from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig, FinishReason, Siblings

CONFIG = EngineConfig(num_gpu_blocks=100, enable_lora=True, max_loras=2)


def stepped(engine: Engine, steps: int, now_s: float = 0.0) -> None:
    for _ in range(steps):
        assert engine.begin_step(now_s) is not None
        now_s += 0.02
        engine.end_step(now_s)


def engine_with_one_more_during_its_first_step() -> Engine:
    """`a` is being computed from 0.0 s on, `b` has come at 0.005 s."""
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    engine.begin_step(0.0)
    engine.add(engines.request("b", 20, 1), 0.005)
    return engine


def test_an_abort_during_a_step_leaves_an_observation_of_its_tokens_without_it() -> None:
    """Recorded of a client that disconnects: iterations + 1, tokens + 0, and nothing of the request."""
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    stepped(engine, 3)
    engine.begin_step(0.06)
    engine.abort("a")
    assert engine.end_step(0.08) == []
    values = engine.metrics.values
    assert values.histograms["step_tokens"].count == 4
    assert values.generation_tokens == 3
    assert values.running == 0
    assert values.kv_cache_usage == 0
    assert sum(values.success.values()) == 0
    assert values.histograms["e2e_s"].count == 0
    assert engine.live_requests == 0


def test_a_request_that_the_front_end_ends_counts_as_finished() -> None:
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    stepped(engine, 3)
    engine.finish("a", FinishReason.STOP, 0.07)
    values = engine.metrics.values
    assert values.success[FinishReason.STOP] == 1
    assert values.histograms["request_generation_tokens"].total == 3
    assert engine.live_requests == 0


def test_a_look_up_counts_although_its_request_is_aborted_in_the_same_step() -> None:
    """The scheduler counts it, which does not know yet."""
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    engine.begin_step(0.0)
    engine.abort("a")
    engine.end_step(0.02)
    assert engine.metrics.values.prefix_queries == 20


def test_the_queue_counts_from_the_step_at_which_the_scheduler_sees_a_request() -> None:
    """TTFT counts from its arrival, in the middle of a step."""
    engine = engine_with_one_more_during_its_first_step()
    engine.end_step(0.02)
    stepped(engine, 1, 0.02)
    of = engine.metrics.values.histograms
    assert of["queue_s"].total == 0
    assert abs(of["ttft_s"].total - (0.02 + 0.035)) < 1e-9


def test_what_comes_during_a_step_is_not_shown_as_waiting_at_its_end() -> None:
    """The scheduler has not seen it yet: nobody waits on a server that has room."""
    engine = engine_with_one_more_during_its_first_step()
    engine.end_step(0.02)
    assert engine.metrics.values.waiting_capacity == 0
    assert engine.live_requests == 2


def test_a_client_that_leaves_before_the_next_step_leaves_no_trace() -> None:
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    engine.abort("a")
    assert engine.begin_step(0.0) is None
    assert engine.live_requests == 0
    assert engine.metrics.values.prefix_queries == 0


def test_a_request_that_the_server_ends_before_the_next_step_counts_as_ended() -> None:
    """A shutdown ends all that is there, what has come during the step included, and none of it runs on."""
    engine = engine_with_one_more_during_its_first_step()
    engine.finish("b", FinishReason.ABORT, 0.01)
    engine.end_step(0.02)
    stepped(engine, 1, 0.02)
    assert engine.live_requests == 1
    assert engine.metrics.values.running == 1
    assert engine.metrics.values.success[FinishReason.ABORT] == 1


def test_an_adapter_shows_from_its_first_token_to_its_last() -> None:
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 3, lora="sql"), 0.0)
    engine.add(engines.request("b", 20, 5, lora="tweet"), 0.0)
    engine.add(engines.request("c", 20, 2, lora="chat"), 0.0)
    assert engine.metrics.values.adapters == {}
    stepped(engine, 1)
    assert list(engine.metrics.values.adapters) == ["sql,tweet"]
    assert engine.metrics.values.waiting_deferred == 1
    stepped(engine, 4)
    assert list(engine.metrics.values.adapters) == ["sql,tweet", "tweet", "tweet,chat", ""]


def test_nothing_is_looked_up_for_prompt_logprobs_or_without_a_cache() -> None:
    for config, more in ((CONFIG, {"prompt_logprobs": True}), (EngineConfig(enable_prefix_caching=False), {})):
        engine = engines.engine(config)
        engine.add(engines.request("a", 20, 2, **more), 0.0)
        stepped(engine, 2)
        assert engine.metrics.values.prefix_queries == 0


def test_samples_of_one_prompt_are_observed_once_with_the_longest() -> None:
    engine = engines.engine(CONFIG)
    siblings = Siblings(2)
    engine.add(engines.request("a", 20, 7, siblings=siblings), 0.0)
    engine.add(engines.request("b", 20, 3, siblings=siblings), 0.0)
    engine.add(engines.request("c", 20, 2), 0.0)
    stepped(engine, 7)
    of = engine.metrics.values.histograms
    assert (of["params_n"].count, of["params_n"].total) == (2, 3)
    assert (of["max_generation_tokens"].count, of["max_generation_tokens"].total) == (2, 9)
    assert of["request_generation_tokens"].count == 3


def test_time_does_not_go_backwards() -> None:
    engine = engines.engine(CONFIG)
    engine.advance_to(1.0)
    with pytest.raises(ValueError, match=r"^arrival at 0.5 s, but it is 1.0 s already$"):
        engine.submit(engines.request("a", 20, 2), 0.5)
