"""The metric families of each generation of vLLM, in the order of its page.

`v1-current` is vLLM 0.32 as recorded. The older ones are read from that generation's metric definitions: names, labels,
buckets and order are theirs; the moments at which values move are those of the recorded engine throughout.
"""

from dataclasses import dataclass

from vllm_mock.engine.messages import FinishReason
from vllm_mock.metrics.families import (
    Adapters,
    Bounds,
    Buckets,
    CacheConfig,
    CacheSettings,
    Common,
    Family,
    Read,
    constant,
    counter,
    gauge,
    labelled,
    success,
)
from vllm_mock.metrics.values import Values

TTFT_V0_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
TTFT_S = (*TTFT_V0_S, 20, 40, 80, 160, 640, 2560)
PER_TOKEN_V0_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
PER_TOKEN_S = (*PER_TOKEN_V0_S, 5, 7.5, 10, 20, 40, 80)
REQUEST_V0_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60)
REQUEST_S = (*REQUEST_V0_S, 120, 240, 480, 960, 1920, 7680)
STEP_TOKENS_V0 = (1, *(2**power for power in range(3, 14)))
STEP_TOKENS = (*STEP_TOKENS_V0, 16384)
SAMPLES = (1, 2, 5, 10, 20)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)


def one_two_five(limit: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... up to `limit`."""
    return tuple(
        step * 10**power for power in range(len(str(limit))) for step in (1, 2, 5) if step * 10**power <= limit
    )


HISTOGRAMS: dict[str, Bounds] = {
    "request_prompt_tokens": one_two_five,
    "request_generation_tokens": one_two_five,
    "step_tokens": STEP_TOKENS,
    "max_generation_tokens": one_two_five,
    "params_n": SAMPLES,
    "params_max_tokens": one_two_five,
    "ttft_s": TTFT_S,
    "inter_token_s": PER_TOKEN_S,
    "time_per_output_token_s": PER_TOKEN_S,
    "e2e_s": REQUEST_S,
    "queue_s": REQUEST_S,
    "inference_s": REQUEST_S,
    "prefill_s": REQUEST_S,
    "decode_s": REQUEST_S,
    "request_preemptions": PREEMPTIONS,
    "prefill_kv_computed_tokens": one_two_five,
}
"""Every histogram that is kept, with the buckets of those that a profile does not show."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A page."""

    families: tuple[Family, ...]
    created: bool = True
    """Whether counters and histograms have `_created` families."""
    throughput_interval_s: float | None = None
    """How often `avg_*_throughput_toks_per_s` are computed."""


def _times(common: Common, bounds: tuple[float, ...]) -> list[Buckets]:
    """The five whole-request times, alike in all generations but for their buckets."""
    return [
        Buckets("vllm:e2e_request_latency_seconds", "Time of a whole request.", "e2e_s", bounds, common),
        Buckets("vllm:request_queue_time_seconds", "Time in the queue.", "queue_s", bounds, common),
        Buckets("vllm:request_inference_time_seconds", "First scheduled to last token.", "inference_s", bounds, common),
        Buckets("vllm:request_prefill_time_seconds", "First scheduled to first token.", "prefill_s", bounds, common),
        Buckets("vllm:request_decode_time_seconds", "First to last token.", "decode_s", bounds, common),
    ]


def _params(common: Common) -> list[Buckets]:
    return [
        Buckets(
            "vllm:request_max_num_generation_tokens",
            "Most tokens generated among a request's samples.",
            "max_generation_tokens",
            one_two_five,
            common,
        ),
        Buckets("vllm:request_params_n", "Samples asked for.", "params_n", SAMPLES, common),
        Buckets("vllm:request_params_max_tokens", "Most tokens allowed.", "params_max_tokens", one_two_five, common),
    ]


def _sizes(common: Common) -> list[Buckets]:
    return [
        Buckets("vllm:request_prompt_tokens", "Prompt tokens.", "request_prompt_tokens", one_two_five, common),
        Buckets(
            "vllm:request_generation_tokens", "Tokens generated.", "request_generation_tokens", one_two_five, common
        ),
    ]


def _step_tokens(common: Common, bounds: tuple[float, ...]) -> Buckets:
    return Buckets("vllm:iteration_tokens_total", "Tokens of an engine step.", "step_tokens", bounds, common)


def _first_token(common: Common, bounds: tuple[float, ...]) -> Buckets:
    return Buckets("vllm:time_to_first_token_seconds", "Time to the first token.", "ttft_s", bounds, common)


def _per_token(name: str, common: Common, bounds: tuple[float, ...]) -> Buckets:
    return Buckets(f"vllm:{name}", "Time between two tokens.", "inter_token_s", bounds, common)


def _waiting(values: Values) -> float:
    return values.waiting_capacity + values.waiting_deferred


def _totals(common: Common) -> tuple[Family, Family, Family]:
    return (
        counter("num_preemptions", "Preemptions.", "preemptions", common),
        counter("prompt_tokens", "Prompt tokens processed.", "prompt_tokens", common),
        counter("generation_tokens", "Tokens generated.", "generation_tokens", common),
    )


def _current_cache_config(cache: CacheSettings) -> dict[str, str]:
    """vLLM 0.32 with --block-size and --num-gpu-blocks-override given."""
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


def _early_cache_config(cache: CacheSettings) -> dict[str, str]:
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


def _v1_current() -> Profile:
    engine = Common.ENGINE
    preemptions, prompt_tokens, generation_tokens = _totals(engine)
    cached: dict[str, Read | str] = {"device": "prompt_cached"}
    cached |= dict.fromkeys(("host", "p2p", "disk", "external_unspecified"), constant(0))
    rejections = ("max_num_queued_reqs", "max_num_queued_tokens")
    return Profile(
        (
            *(
                counter(f"estimated_{what}_per_gpu", f"Estimated {what} of a GPU.", constant(0))
                for what in ("flops", "read_bytes", "write_bytes")
            ),
            gauge("num_requests_running", "Requests in the running batch.", "running"),
            gauge("num_requests_waiting", "Requests that wait.", _waiting),
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
                "Requests refused at the door.",
                "reason",
                {reason: _rejected(reason) for reason in rejections},
                Common.MODEL,
            ),
            *_sizes(engine),
            _step_tokens(engine, STEP_TOKENS),
            *_params(engine),
            _first_token(engine, TTFT_S),
            _per_token("inter_token_latency_seconds", engine, PER_TOKEN_S),
            Buckets(
                "vllm:request_time_per_output_token_seconds",
                "Mean time of a token after the first.",
                "time_per_output_token_s",
                PER_TOKEN_S,
            ),
            *_times(engine, REQUEST_S),
            Buckets("vllm:request_num_preemptions", "Preemptions of a request.", "request_preemptions", PREEMPTIONS),
            Buckets(
                "vllm:request_prefill_kv_computed_tokens",
                "Prompt tokens computed anew.",
                "prefill_kv_computed_tokens",
                one_two_five,
            ),
            Adapters(),
            CacheConfig(_current_cache_config),
        )
    )


def _v1_early(names_of_both: bool) -> Profile:
    """0.8.5, or 0.10.2 where old and new names stand side by side."""
    engine = Common.ENGINE
    both: list[Family] = [
        gauge("kv_cache_usage_perc", "KV cache usage; 1 is all of it.", "kv_cache_usage"),
        counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_queries"),
        counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_hits"),
    ]
    per_token = ["time_per_output_token_seconds", *(["inter_token_latency_seconds"] if names_of_both else [])]
    return Profile(
        (
            gauge("num_requests_running", "Requests in the running batch.", "running"),
            gauge("num_requests_waiting", "Requests that wait.", _waiting),
            gauge("gpu_cache_usage_perc", "KV cache usage; 1 is all of it.", "kv_cache_usage"),
            counter("gpu_prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_queries"),
            counter("gpu_prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_hits"),
            *(both if names_of_both else []),
            *_totals(engine),
            success((FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT)),
            *_sizes(engine),
            _step_tokens(engine, STEP_TOKENS if names_of_both else STEP_TOKENS_V0),
            *_params(engine),
            _first_token(engine, TTFT_S),
            *(_per_token(name, engine, PER_TOKEN_S) for name in per_token),
            *_times(engine, REQUEST_S),
            Adapters(),
            CacheConfig(_early_cache_config),
        )
    )


def _v0() -> Profile:
    model = Common.MODEL
    queued, running, prefill = "waiting_lora_adapters", "running_lora_adapters", "max_lora"
    return Profile(
        (
            CacheConfig(_early_cache_config, with_engine=False),
            gauge("num_requests_running", "Requests in the running batch.", "running", model),
            gauge("num_requests_waiting", "Requests that wait.", _waiting, model),
            Adapters((running, prefill, queued)),
            gauge("num_requests_swapped", "Requests swapped to the CPU.", constant(0), model),
            gauge("gpu_cache_usage_perc", "KV cache usage; 1 is all of it.", "kv_cache_usage", model),
            gauge("cpu_cache_usage_perc", "CPU KV cache usage; 1 is all of it.", constant(0), model),
            gauge("cpu_prefix_cache_hit_rate", "Hit rate of the CPU prefix cache.", constant(-1), model),
            gauge("gpu_prefix_cache_hit_rate", "Hit rate of the prefix cache; -1 without.", _hit_rate, model),
            *_totals(model),
            _step_tokens(model, STEP_TOKENS_V0),
            _first_token(model, TTFT_V0_S),
            _per_token("time_per_output_token_seconds", model, PER_TOKEN_V0_S),
            *_times(model, REQUEST_V0_S),
            Buckets("vllm:time_in_queue_requests", "Time in the queue.", "queue_s", REQUEST_V0_S, model),
            *_sizes(model),
            *_params(model),
            success((FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT), model, only_counted=True),
            gauge("avg_prompt_throughput_toks_per_s", "Prompt tokens a second.", "prompt_tokens_per_s", model),
            gauge("avg_generation_throughput_toks_per_s", "Tokens a second.", "generation_tokens_per_s", model),
        ),
        created=False,
        throughput_interval_s=5.0,
    )


def _computed(values: Values) -> float:
    return values.prompt_tokens - values.prompt_cached


def _hit_rate(values: Values) -> float:
    return values.prefix_hits / values.prefix_queries if values.prefix_queries else -1.0


def _rejected(reason: str) -> Read:
    return lambda values: values.rejections[reason]


PROFILES = {
    "v1-current": _v1_current(),
    "v1-0.10": _v1_early(names_of_both=True),
    "v1-0.8": _v1_early(names_of_both=False),
    "v0-0.6": _v0(),
}
"""By name, as `--metrics-profile` takes them."""
