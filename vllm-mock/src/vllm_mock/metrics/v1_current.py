"""Metrics of vLLM 0.32, as recorded."""

from vllm_mock.engine.messages import FinishReason
from vllm_mock.metrics.buckets import PER_TOKEN_S, PREEMPTIONS, REQUEST_S, STEP_TOKENS, TTFT_S, one_two_five
from vllm_mock.metrics.families import (
    Adapters,
    Buckets,
    CacheConfig,
    CacheSettings,
    Common,
    Family,
    Profile,
    Read,
    constant,
    counter,
    gauge,
    labelled,
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
from vllm_mock.metrics.values import Values


def v1_current() -> Profile:
    return Profile((*_of_the_engine(), *_of_tokens(), *_of_requests(), Adapters(), CacheConfig(_cache_config)))


def _of_the_engine() -> list[Family]:
    return [
        *(
            counter(f"estimated_{what}_per_gpu", f"Estimated {what} of a GPU.", constant(0))
            for what in ("flops", "read_bytes", "write_bytes")
        ),
        gauge("num_requests_running", "Requests in the running batch.", "running"),
        gauge("num_requests_waiting", "Requests that wait.", waiting),
        labelled(
            "gauge",
            "num_requests_waiting_by_reason",
            "Requests that wait, by reason.",
            "reason",
            {"capacity": "waiting_capacity", "deferred": "waiting_deferred"},
        ),
        labelled(
            "gauge",
            "engine_sleep_state",
            "Whether the engine sleeps.",
            "sleep_state",
            {"awake": constant(1), "weights_offloaded": constant(0), "discard_all": constant(0)},
        ),
        gauge("kv_cache_usage_perc", "KV cache usage; 1 is all of it.", "kv_cache_usage"),
        counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_queries"),
        counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_hits"),
        counter("external_prefix_cache_queries", "Tokens looked up in other caches.", constant(0)),
        counter("external_prefix_cache_hits", "Tokens found in other caches.", constant(0)),
        counter("mm_cache_queries", "Items looked up in the multi-modal cache.", constant(0)),
        counter("mm_cache_hits", "Items found in the multi-modal cache.", constant(0)),
    ]


def _of_tokens() -> list[Family]:
    preemptions, prompt_tokens, generation_tokens = totals(Common.ENGINE)
    cached: dict[str, Read | str] = {"device": "prompt_cached"}
    cached |= dict.fromkeys(("host", "p2p", "disk", "external_unspecified"), constant(0))
    rejections = ("max_num_queued_reqs", "max_num_queued_tokens")
    return [
        preemptions,
        prompt_tokens,
        labelled(
            "counter",
            "prompt_tokens_by_source_total",
            "Prompt tokens, by where they came from.",
            "source",
            {
                "local_compute": _computed,
                "local_cache_hit": "prompt_cached",
                "external_kv_transfer": constant(0),
            },
        ),
        counter("prompt_tokens_cached", "Prompt tokens that were cached.", "prompt_cached"),
        labelled("counter", "prompt_tokens_cached_by_source_total", "The same, by cache.", "source", cached),
        generation_tokens,
        success(tuple(FinishReason)),
        labelled(
            "counter",
            "admission_rejections_total",
            "Rejected requests, by reason.",
            "reason",
            {reason: _rejected(reason) for reason in rejections},
            Common.MODEL,
        ),
    ]


def _of_requests() -> list[Family]:
    engine = Common.ENGINE
    return [
        *request_sizes(engine),
        step_tokens(engine, STEP_TOKENS),
        *request_params(engine),
        first_token(engine, TTFT_S),
        per_token("inter_token_latency_seconds", engine, PER_TOKEN_S),
        Buckets(
            "vllm:request_time_per_output_token_seconds",
            "Mean time of a token after the first.",
            "time_per_output_token_s",
            PER_TOKEN_S,
        ),
        *whole_request_times(engine, REQUEST_S),
        Buckets("vllm:request_num_preemptions", "Preemptions of a request.", "request_preemptions", PREEMPTIONS),
        Buckets(
            "vllm:request_prefill_kv_computed_tokens",
            "Prompt tokens computed, without cached ones.",
            "prefill_kv_computed_tokens",
            one_two_five,
        ),
    ]


def _cache_config(cache: CacheSettings) -> dict[str, str]:
    """Labels of `vllm:cache_config_info` in vLLM 0.32 with --block-size and --num-gpu-blocks-override set."""
    size, blocks = str(cache.block_size), str(cache.num_gpu_blocks)
    return {
        "_block_size_resolved": "True",
        "block_size": size,
        "cache_dtype": "auto",
        "cache_hit_alignment_tokens": "None",
        "effective_attention_block_size": size,
        "enable_mamba_shared_prefix_checkpoint": "False",
        "enable_prefix_caching": str(cache.enable_prefix_caching),
        "gpu_memory_utilization": "0.92",
        "hash_block_size": "None",
        "is_attention_free": "False",
        "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_layout": "None",
        "kv_cache_max_concurrency": str(cache.num_gpu_blocks / -(-cache.max_model_len // cache.block_size)),
        "kv_cache_memory_bytes": "1073741824",
        "kv_cache_size_tokens": str(cache.num_gpu_blocks * cache.block_size),
        "kv_offloading_backend": "native",
        "kv_offloading_size": "None",
        "kv_sharing_fast_prefill": "False",
        "mamba_block_size": "None",
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_page_size_padded": "None",
        "mamba_ssm_cache_dtype": "float32",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": blocks,
        "num_gpu_blocks_override": blocks,
        "prefix_cache_retention_interval": "0",
        "prefix_caching_hash_algo": "sha256",
        "prefix_match_unit": "None",
        "replayssm_buffer_len": "16",
        "skip_page_size_padded": "None",
        "sliding_window": "None",
        "swa_bounded_replay": "True",
        "use_kda_recoverssm": "False",
        "use_replayssm": "False",
        "user_specified_block_size": "True",
    }


def _computed(values: Values) -> float:
    return values.prompt_tokens - values.prompt_cached


def _rejected(reason: str) -> Read:
    return lambda values: values.rejections[reason]
