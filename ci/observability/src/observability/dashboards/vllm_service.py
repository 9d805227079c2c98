"""The dashboard of the model servers: traffic, scheduler, KV cache and latency, for every version of vLLM's metrics."""

from observability.panels import Dashboard, Kind, Panel, Row, Unit, Variable, number, panel
from observability.promql import Read, either, mean, quantile, rate, selected
from observability.vllm_names import (
    ANSWER_LENGTH,
    DECODE_TIME,
    KV_CACHE_USAGE,
    PREFILL_TIME,
    PREFIX_HITS,
    PREFIX_QUERIES,
    PROMPT_LENGTH,
    QUEUE_TIME,
    REPLICA,
    REPLICA_LEGEND,
    STEP_TOKENS,
    TIME_PER_TOKEN,
    TIME_TO_FIRST_TOKEN,
    WHOLE_TIME,
)

_SERVERS = 'namespace=~"$namespace",model_name=~"$model"'
_NOW: Read = selected(_SERVERS)
_RATE: Read = rate(_SERVERS)
_USAGE = f"max by ({REPLICA}) ({either(KV_CACHE_USAGE, _NOW)})"


def _per_replica(expression: str) -> tuple[str, str]:
    return f"sum by ({REPLICA}) ({expression})", REPLICA_LEGEND


def _quantiles(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((quantile(share, names, _RATE), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))


_NOW_ROW: tuple[Panel, ...] = (
    number("Replicas", Unit.COUNT, f"count(count by ({REPLICA}) ({_NOW('vllm:num_requests_running')}))"),
    number("Finished", Unit.REQUESTS_PER_S, f"sum({_RATE('vllm:request_success_total')})"),
    number("Generated", Unit.TOKENS_PER_S, f"sum({_RATE('vllm:generation_tokens_total')})"),
    number("TTFT p95", Unit.SECONDS, quantile(0.95, TIME_TO_FIRST_TOKEN, _RATE)),
    number("KV cache in use", Unit.SHARE, f"avg({_USAGE})"),
    number("Requests waiting", Unit.COUNT, f"sum({_NOW('vllm:num_requests_waiting')})"),
)

_TRAFFIC: tuple[Panel, ...] = (
    panel(
        "Finished requests",
        Unit.REQUESTS_PER_S,
        (f"sum by (finished_reason) ({_RATE('vllm:request_success_total')})", "{{finished_reason}}"),
        about="By the reason of their end. `abort`: the client cancelled. `length`: the limit of tokens was reached.",
        kind=Kind.STACKED,
    ),
    panel(
        "Token throughput",
        Unit.TOKENS_PER_S,
        (f"sum({_RATE('vllm:prompt_tokens_total')})", "prompt"),
        (f"sum({_RATE('vllm:generation_tokens_total')})", "generated"),
    ),
    panel("Generated tokens of each replica", Unit.TOKENS_PER_S, _per_replica(_RATE("vllm:generation_tokens_total"))),
    panel(
        "Throughput as vLLM averages it",
        Unit.TOKENS_PER_S,
        (f"sum({_NOW('vllm:avg_prompt_throughput_toks_per_s')})", "prompt"),
        (f"sum({_NOW('vllm:avg_generation_throughput_toks_per_s')})", "generated"),
        about="vLLM until 0.6 only.",
    ),
    panel(
        "Length of prompts and answers",
        Unit.TOKENS,
        (mean(PROMPT_LENGTH, _RATE), "prompt, mean"),
        (quantile(0.95, PROMPT_LENGTH, _RATE), "prompt, p95"),
        (mean(ANSWER_LENGTH, _RATE), "answer, mean"),
        (quantile(0.95, ANSWER_LENGTH, _RATE), "answer, p95"),
    ),
    panel(
        "Rejected",
        Unit.REQUESTS_PER_S,
        (f"sum by (reason) ({_RATE('vllm:admission_rejections_total')})", "{{reason}}"),
        about="Rejected with status 503 because the queue was at --max-num-queued-reqs. vLLM from 0.32 on.",
    ),
)

_SCHEDULER: tuple[Panel, ...] = (
    panel("Running", Unit.COUNT, _per_replica(_NOW("vllm:num_requests_running")), about="Requests in the batch."),
    panel(
        "Waiting",
        Unit.COUNT,
        _per_replica(_NOW("vllm:num_requests_waiting")),
        about="Requests that are queued or were preempted. If more than a few wait for long, add replicas.",
    ),
    panel(
        "Swapped",
        Unit.COUNT,
        _per_replica(_NOW("vllm:num_requests_swapped")),
        about="Requests whose KV cache is in CPU memory. The old engine only; the V1 engine preempts instead.",
    ),
    panel(
        "Waiting by reason",
        Unit.COUNT,
        (f"sum by (reason) ({_NOW('vllm:num_requests_waiting_by_reason')})", "{{reason}}"),
        about="`capacity`: the batch or the KV cache is full. `deferred`: waits for an adapter, grammar or transfer. "
        "vLLM from 0.24 on.",
        kind=Kind.STACKED,
    ),
    panel(
        "Preemptions",
        Unit.PER_S,
        _per_replica(_RATE("vllm:num_preemptions_total")),
        about="Requests removed from the batch because the KV cache was full. Their prefill is repeated.",
    ),
    panel("Tokens in a step", Unit.TOKENS, (mean(STEP_TOKENS, _RATE, REPLICA), REPLICA_LEGEND)),
)

_KV_CACHE: tuple[Panel, ...] = (
    panel(
        "KV cache utilisation of each replica",
        Unit.SHARE,
        (_USAGE, REPLICA_LEGEND),
        about="Replicas differ behind a plain Service, and are close together behind an inference pool.",
        width=12,
        high=1,
    ),
    panel(
        "Spread of KV cache utilisation",
        Unit.SHARE,
        (f"max({_USAGE}) - min({_USAGE})", "maximum - minimum"),
        (f"stddev({_USAGE})", "standard deviation"),
        about="Differences between replicas.",
        width=12,
    ),
    panel(
        "Prefix cache hits",
        Unit.SHARE,
        (
            f"sum by ({REPLICA}) ({either(PREFIX_HITS, _RATE)}) / sum by ({REPLICA}) ({either(PREFIX_QUERIES, _RATE)})",
            REPLICA_LEGEND,
        ),
        (f"max by ({REPLICA}) ({_NOW('vllm:gpu_prefix_cache_hit_rate')} >= 0)", REPLICA_LEGEND),
        about="Share of prompt tokens found in the cache. The old engine reports its own rate if caching is on.",
        width=12,
        high=1,
    ),
    panel(
        "CPU KV cache utilisation",
        Unit.SHARE,
        (f"max by ({REPLICA}) ({_NOW('vllm:cpu_cache_usage_perc')})", REPLICA_LEGEND),
        about="The old engine only.",
        width=12,
        high=1,
    ),
)

_LATENCY: tuple[Panel, ...] = (
    panel("Time to first token", Unit.SECONDS, *_quantiles(TIME_TO_FIRST_TOKEN)),
    panel(
        "Time to first token of each replica, p95",
        Unit.SECONDS,
        (quantile(0.95, TIME_TO_FIRST_TOKEN, _RATE, REPLICA), REPLICA_LEGEND),
    ),
    panel("Time per output token", Unit.SECONDS, *_quantiles(TIME_PER_TOKEN)),
    panel(
        "Time in the queue",
        Unit.SECONDS,
        (mean(QUEUE_TIME, _RATE), "mean"),
        *_quantiles(QUEUE_TIME),
        about="Buckets begin at 0.3 s, or at 1 s with the old engine. Below that only the mean is meaningful.",
    ),
    panel(
        "Time in the queue of each replica, mean",
        Unit.SECONDS,
        (mean(QUEUE_TIME, _RATE, REPLICA), REPLICA_LEGEND),
    ),
    panel("Whole request", Unit.SECONDS, *_quantiles(WHOLE_TIME)),
    panel(
        "Time by phase",
        Unit.SECONDS,
        (mean(QUEUE_TIME, _RATE), "queue"),
        (mean(PREFILL_TIME, _RATE), "prefill"),
        (mean(DECODE_TIME, _RATE), "decode"),
        about="Means over finished requests.",
        kind=Kind.STACKED,
        width=16,
    ),
    panel(
        "Adapters in use",
        Unit.COUNT,
        (
            'count by (running_lora_adapters) (vllm:lora_requests_info{namespace=~"$namespace",'
            'running_lora_adapters!=""} > time() - 60)',
            "{{running_lora_adapters}}",
        ),
        about="Number of replicas that served each set of LoRA adapters within a minute.",
    ),
)

VLLM_SERVICE = Dashboard(
    uid="vllm-service",
    title="vLLM service",
    description="Model servers: request rate, token throughput, queues, KV cache and latencies of each replica.",
    rows=(
        Row("Now", _NOW_ROW),
        Row("Traffic", _TRAFFIC),
        Row("KV cache", _KV_CACHE),
        Row("Scheduler", _SCHEDULER),
        Row("Latency", _LATENCY),
    ),
    variables=(
        Variable("namespace", "Namespace", "vllm:num_requests_running", "namespace"),
        Variable("model", "Model", 'vllm:num_requests_running{namespace=~"$namespace"}', "model_name"),
    ),
    tags=("inference-gateway", "vllm"),
)
