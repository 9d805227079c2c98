"""Families of all generations, which differ in common labels and buckets only."""

from vllm_mock.metrics.buckets import SAMPLES, one_two_five
from vllm_mock.metrics.families import Buckets, Common, Family, counter
from vllm_mock.metrics.values import Values


def whole_request_times(common: Common, bounds: tuple[float, ...]) -> list[Buckets]:
    """The five histograms of whole-request times."""
    return [
        Buckets("vllm:e2e_request_latency_seconds", "Time of a whole request.", "e2e_s", bounds, common),
        Buckets("vllm:request_queue_time_seconds", "Time in the queue.", "queue_s", bounds, common),
        Buckets("vllm:request_inference_time_seconds", "First scheduled to last token.", "inference_s", bounds, common),
        Buckets("vllm:request_prefill_time_seconds", "First scheduled to first token.", "prefill_s", bounds, common),
        Buckets("vllm:request_decode_time_seconds", "First to last token.", "decode_s", bounds, common),
    ]


def request_params(common: Common) -> list[Buckets]:
    return [
        Buckets(
            "vllm:request_max_num_generation_tokens",
            "Most tokens generated among a request's samples.",
            "max_generation_tokens",
            one_two_five,
            common,
        ),
        Buckets("vllm:request_params_n", "Samples requested.", "params_n", SAMPLES, common),
        Buckets("vllm:request_params_max_tokens", "Most tokens allowed.", "params_max_tokens", one_two_five, common),
    ]


def request_sizes(common: Common) -> list[Buckets]:
    return [
        Buckets("vllm:request_prompt_tokens", "Prompt tokens.", "request_prompt_tokens", one_two_five, common),
        Buckets(
            "vllm:request_generation_tokens", "Tokens generated.", "request_generation_tokens", one_two_five, common
        ),
    ]


def step_tokens(common: Common, bounds: tuple[float, ...]) -> Buckets:
    return Buckets("vllm:iteration_tokens_total", "Tokens of an engine step.", "step_tokens", bounds, common)


def first_token(common: Common, bounds: tuple[float, ...]) -> Buckets:
    return Buckets("vllm:time_to_first_token_seconds", "Time to the first token.", "ttft_s", bounds, common)


def per_token(name: str, common: Common, bounds: tuple[float, ...]) -> Buckets:
    return Buckets(f"vllm:{name}", "Time between two tokens.", "inter_token_s", bounds, common)


def waiting(values: Values) -> float:
    return values.waiting_capacity + values.waiting_deferred


def totals(common: Common) -> tuple[Family, Family, Family]:
    return (
        counter("num_preemptions", "Preemptions.", "preemptions", common),
        counter("prompt_tokens", "Prompt tokens processed.", "prompt_tokens", common),
        counter("generation_tokens", "Tokens generated.", "generation_tokens", common),
    )
