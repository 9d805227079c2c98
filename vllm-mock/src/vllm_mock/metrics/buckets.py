"""Histogram buckets. `V0` are the buckets of vLLM's V0 engine where they differ."""

from vllm_mock.metrics.families import Bounds

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
    """Bounds 1, 2, 5, 10, 20, 50 and so on up to `limit`."""
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
"""All histograms by field name, with the buckets used if a profile does not show the histogram."""
