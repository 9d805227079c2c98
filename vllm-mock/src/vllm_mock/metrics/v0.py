"""Metrics of vLLM 0.6.6 with the V0 engine, from its metric definitions. The tutorial lists these names."""

from vllm_mock.engine.messages import FinishReason
from vllm_mock.metrics.buckets import PER_TOKEN_V0_S, REQUEST_V0_S, STEP_TOKENS_V0, TTFT_V0_S
from vllm_mock.metrics.families import Adapters, Buckets, CacheConfig, Common, Profile, constant, gauge, success
from vllm_mock.metrics.shared_families import (
    first_token,
    per_token,
    request_params,
    request_sizes,
    step_tokens,
    totals,
    waiting,
    whole_request_times,
)
from vllm_mock.metrics.v1_early import early_cache_config
from vllm_mock.metrics.values import Values


def v0() -> Profile:
    model = Common.MODEL
    return Profile(
        (
            CacheConfig(early_cache_config, with_engine=False),
            gauge("num_requests_running", "Requests in the running batch.", "running", model),
            gauge("num_requests_waiting", "Requests that wait.", waiting, model),
            Adapters(),
            gauge("num_requests_swapped", "Requests swapped to the CPU.", constant(0), model),
            gauge("gpu_cache_usage_perc", "KV cache usage; 1 is all of it.", "kv_cache_usage", model),
            gauge("cpu_cache_usage_perc", "CPU KV cache usage; 1 is all of it.", constant(0), model),
            gauge("cpu_prefix_cache_hit_rate", "Hit rate of the CPU prefix cache.", constant(-1), model),
            gauge("gpu_prefix_cache_hit_rate", "Hit rate of the prefix cache; -1 without.", _hit_rate, model),
            *totals(model),
            step_tokens(model, STEP_TOKENS_V0),
            first_token(model, TTFT_V0_S),
            per_token("time_per_output_token_seconds", model, PER_TOKEN_V0_S),
            *whole_request_times(model, REQUEST_V0_S),
            Buckets("vllm:time_in_queue_requests", "Time in the queue.", "queue_s", REQUEST_V0_S, model),
            *request_sizes(model),
            *request_params(model),
            success((FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT), model, only_counted=True),
            gauge("avg_prompt_throughput_toks_per_s", "Prompt tokens a second.", "prompt_tokens_per_s", model),
            gauge("avg_generation_throughput_toks_per_s", "Tokens a second.", "generation_tokens_per_s", model),
        ),
        created=False,
        throughput_interval_s=5.0,
    )


def _hit_rate(values: Values) -> float:
    return values.prefix_hits / values.prefix_queries if values.prefix_queries else -1.0
