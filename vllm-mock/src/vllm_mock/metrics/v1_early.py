"""Metrics of vLLM 0.8.5 and 0.10.2, from their metric definitions."""

from vllm_mock.engine.messages import FinishReason
from vllm_mock.metrics.buckets import PER_TOKEN_S, REQUEST_S, STEP_TOKENS, STEP_TOKENS_V0, TTFT_S
from vllm_mock.metrics.families import (
    Adapters,
    CacheConfig,
    CacheSettings,
    Common,
    Family,
    Profile,
    counter,
    gauge,
    success,
)
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


def v1_early(names_of_both: bool) -> Profile:
    """The profile of 0.8.5, or with `names_of_both` of 0.10.2, which has old and new names side by side."""
    engine = Common.ENGINE
    both: list[Family] = [
        gauge("kv_cache_usage_perc", "KV cache usage; 1 is all of it.", "kv_cache_usage"),
        counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_queries"),
        counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_hits"),
    ]
    per_token_names = ["time_per_output_token_seconds", *(["inter_token_latency_seconds"] if names_of_both else [])]
    return Profile(
        (
            gauge("num_requests_running", "Requests in the running batch.", "running"),
            gauge("num_requests_waiting", "Requests that wait.", waiting),
            gauge("gpu_cache_usage_perc", "KV cache usage; 1 is all of it.", "kv_cache_usage"),
            counter("gpu_prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_queries"),
            counter("gpu_prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_hits"),
            *(both if names_of_both else []),
            *totals(engine),
            success((FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT)),
            *request_sizes(engine),
            step_tokens(engine, STEP_TOKENS if names_of_both else STEP_TOKENS_V0),
            *request_params(engine),
            first_token(engine, TTFT_S),
            *(per_token(name, engine, PER_TOKEN_S) for name in per_token_names),
            *whole_request_times(engine, REQUEST_S),
            Adapters(),
            CacheConfig(early_cache_config),
        )
    )


def early_cache_config(cache: CacheSettings) -> dict[str, str]:
    return {
        "block_size": str(cache.block_size),
        "cache_dtype": "auto",
        "calculate_kv_scales": "False",
        "cpu_offload_gb": "0",
        "enable_prefix_caching": str(cache.enable_prefix_caching),
        "gpu_memory_utilization": "0.9",
        "is_attention_free": "False",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(cache.num_gpu_blocks),
        "num_gpu_blocks_override": str(cache.num_gpu_blocks),
        "sliding_window": "None",
        "swap_space_bytes": "4294967296",
    }
