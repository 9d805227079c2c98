"""Metrics of vLLM with their names in different versions, the newest name first.

vLLM 0.6 (the old engine) to 0.8 has the `gpu_` names, 0.9.2 to 0.10.2 has both, later versions have those without
`gpu_`. The time per output token is `time_per_output_token_seconds` until 0.12, and `inter_token_latency_seconds` from
0.10.2 on. Both count the same."""

KV_CACHE_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
PREFIX_HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
PREFIX_QUERIES = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
TIME_PER_TOKEN = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
TIME_TO_FIRST_TOKEN = ("vllm:time_to_first_token_seconds",)
QUEUE_TIME = ("vllm:request_queue_time_seconds",)
PREFILL_TIME = ("vllm:request_prefill_time_seconds",)
DECODE_TIME = ("vllm:request_decode_time_seconds",)
WHOLE_TIME = ("vllm:e2e_request_latency_seconds",)
PROMPT_LENGTH = ("vllm:request_prompt_tokens",)
ANSWER_LENGTH = ("vllm:request_generation_tokens",)
STEP_TOKENS = ("vllm:iteration_tokens_total",)

REPLICA = "pod, instance"
"""The labels that identify a replica: Prometheus sets `instance` always, and `pod` by its Kubernetes discovery."""
REPLICA_LEGEND = "{{pod}} {{instance}}"
