"""When counters change, in the cases that the recordings do not show."""

import engines
from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig, FinishReason, Siblings

CONFIG = EngineConfig(num_gpu_blocks=100, enable_lora=True, max_loras=2)


def run_steps(engine: Engine, steps: int, now_s: float = 0.0) -> None:
    for _ in range(steps):
        assert engine.begin_step(now_s) is not None
        now_s += 0.02
        engine.end_step(now_s)


def engine_with_an_arrival_during_its_first_step() -> Engine:
    """An engine that computes `a` from 0.0 s on. `b` arrived at 0.005 s."""
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    engine.begin_step(0.0)
    engine.add(engines.request("b", 20, 1), 0.005)
    return engine


def test_a_step_whose_only_request_is_aborted_is_still_observed() -> None:
    """Recorded of a client that disconnects: one more iteration, no more tokens, and no metric of the request."""
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    run_steps(engine, 3)
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


def test_a_request_ended_by_the_front_end_counts_as_finished() -> None:
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    run_steps(engine, 3)
    engine.finish("a", FinishReason.STOP, 0.07)
    values = engine.metrics.values
    assert values.success[FinishReason.STOP] == 1
    assert values.histograms["request_generation_tokens"].total == 3
    assert engine.live_requests == 0


def test_a_prefix_look_up_of_a_request_aborted_in_its_first_step_is_counted() -> None:
    """vLLM counts it at admission."""
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    engine.begin_step(0.0)
    engine.abort("a")
    engine.end_step(0.02)
    assert engine.metrics.values.prefix_queries == 20


def test_queue_time_counts_from_the_next_step_and_ttft_from_arrival() -> None:
    engine = engine_with_an_arrival_during_its_first_step()
    engine.end_step(0.02)
    run_steps(engine, 1, 0.02)
    of = engine.metrics.values.histograms
    assert of["queue_s"].total == 0
    assert abs(of["ttft_s"].total - (0.02 + 0.035)) < 1e-9


def test_an_arrival_during_a_step_is_not_waiting_at_its_end() -> None:
    """The scheduler receives it when the next step begins."""
    engine = engine_with_an_arrival_during_its_first_step()
    engine.end_step(0.02)
    assert engine.metrics.values.waiting_capacity == 0
    assert engine.live_requests == 2


def test_a_request_aborted_before_its_first_step_changes_no_counter() -> None:
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 50), 0.0)
    engine.abort("a")
    assert engine.begin_step(0.0) is None
    assert engine.live_requests == 0
    assert engine.metrics.values.prefix_queries == 0


def test_a_request_ended_before_its_first_step_counts_as_finished() -> None:
    """A shutdown ends all requests, also those that arrived during the current step."""
    engine = engine_with_an_arrival_during_its_first_step()
    engine.finish("b", FinishReason.ABORT, 0.01)
    engine.end_step(0.02)
    run_steps(engine, 1, 0.02)
    assert engine.live_requests == 1
    assert engine.metrics.values.running == 1
    assert engine.metrics.values.success[FinishReason.ABORT] == 1


def test_an_adapter_is_listed_from_its_first_token_to_its_last() -> None:
    engine = engines.engine(CONFIG)
    engine.add(engines.request("a", 20, 3, lora="sql"), 0.0)
    engine.add(engines.request("b", 20, 5, lora="tweet"), 0.0)
    engine.add(engines.request("c", 20, 2, lora="chat"), 0.0)
    assert engine.metrics.values.adapters == {}
    run_steps(engine, 1)
    assert list(engine.metrics.values.adapters) == ["sql,tweet"]
    assert engine.metrics.values.waiting_deferred == 1
    run_steps(engine, 4)
    assert list(engine.metrics.values.adapters) == ["sql,tweet", "tweet", "tweet,chat", ""]


def test_no_look_up_with_prompt_logprobs_or_without_prefix_caching() -> None:
    for config, more in ((CONFIG, {"prompt_logprobs": True}), (EngineConfig(enable_prefix_caching=False), {})):
        engine = engines.engine(config)
        engine.add(engines.request("a", 20, 2, **more), 0.0)
        run_steps(engine, 2)
        assert engine.metrics.values.prefix_queries == 0


def test_samples_of_one_prompt_are_observed_once_with_the_longest_output() -> None:
    engine = engines.engine(CONFIG)
    siblings = Siblings(2)
    engine.add(engines.request("a", 20, 7, siblings=siblings), 0.0)
    engine.add(engines.request("b", 20, 3, siblings=siblings), 0.0)
    engine.add(engines.request("c", 20, 2), 0.0)
    run_steps(engine, 7)
    of = engine.metrics.values.histograms
    assert (of["params_n"].count, of["params_n"].total) == (2, 3)
    assert (of["max_generation_tokens"].count, of["max_generation_tokens"].total) == (2, 9)
    assert of["request_generation_tokens"].count == 3
