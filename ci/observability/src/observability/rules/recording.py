"""Recording rules, which alerts read. They give a metric one name for all vLLM versions."""

from observability.promql import either, rate, selected
from observability.rules.rule import Recording
from observability.vllm_names import KV_CACHE_USAGE

MODEL = "namespace, model_name"
REPLICA = f"{MODEL}, pod, instance"

KV_CACHE = "replica:vllm_kv_cache_usage:ratio"
REPLICAS = "model:vllm_replicas:count"
KV_CACHE_SPREAD = "model:vllm_kv_cache_usage:spread"
WAITING = "model:vllm_requests_waiting:sum"
SHEDS = "pool:inference_gateway_sheds:ratio_rate5m"
PICKER_FAILURES = "gateway:inference_pool_exchange_failures:ratio_rate5m"

TTFT_GOAL_S = 2.5
"""The service level objective for the time to first token. It must be a bucket bound of vLLM's histogram."""
TTFT_BUDGET = 0.05
"""Share of the responses that may start later."""
WINDOWS = ("5m", "30m", "1h", "6h")


def slow(window: str) -> str:
    """The name of the recorded share of responses that start later than `TTFT_GOAL_S`."""
    return f"model:vllm_time_to_first_token_slow:ratio_rate{window}"


def _slow(window: str) -> Recording:
    within = rate(f'le="{TTFT_GOAL_S:g}"', window)("vllm:time_to_first_token_seconds_bucket")
    total = rate("", window)("vllm:time_to_first_token_seconds_count")
    return Recording(slow(window), f"1 - sum by ({MODEL}) ({within}) / sum by ({MODEL}) ({total})")


SERVER_RECORDINGS = (
    Recording(KV_CACHE, f"max by ({REPLICA}) ({either(KV_CACHE_USAGE, selected(''))})"),
    Recording(REPLICAS, f"count by ({MODEL}) ({KV_CACHE})"),
    # Of means over time, because a replica's usage jumps when requests start and finish.
    Recording(
        KV_CACHE_SPREAD,
        f"max by ({MODEL}) (avg_over_time({KV_CACHE}[10m])) - min by ({MODEL}) (avg_over_time({KV_CACHE}[10m]))",
    ),
    Recording(WAITING, f"sum by ({MODEL}) (vllm:num_requests_waiting)"),
    *(_slow(window) for window in WINDOWS),
)

_REJECTIONS = "inference_gateway_rejections_total"
_REQUESTS = f"rate(inference_gateway_decisions_total[5m]) or rate({_REJECTIONS}[5m])"
_EXT_PROC = "envoy_http_ext_proc_inference_pool"

GATEWAY_RECORDINGS = (
    # 0 for a pool without sheds: its counter of sheds does not exist before the first one.
    Recording(
        SHEDS,
        f'(sum by (pool) (rate({_REJECTIONS}{{reason="saturated"}}[5m])) or 0 * sum by (pool) ({_REQUESTS}))'
        f" / sum by (pool) ({_REQUESTS})",
    ),
    Recording(
        PICKER_FAILURES,
        f"(sum(rate({_EXT_PROC}_streams_failed[5m])) + sum(rate({_EXT_PROC}_message_timeouts[5m])))"
        f" / sum(rate({_EXT_PROC}_streams_started[5m]))",
    ),
)
