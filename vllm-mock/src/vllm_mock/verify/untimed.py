"""The numbers of a trace that do not depend on speed (`speed_free` in the recordings), from the engine's steps."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from vllm_mock.engine.messages import FinishReason
from vllm_mock.metrics.values import Histogram
from vllm_mock.verify.trace_run import Json, TraceRun

REQUEST_HISTOGRAMS = {
    "vllm:request_prompt_tokens": "request_prompt_tokens",
    "vllm:request_generation_tokens": "request_generation_tokens",
    "vllm:request_num_preemptions": "request_preemptions",
    "vllm:request_prefill_kv_computed_tokens": "prefill_kv_computed_tokens",
    "vllm:request_params_max_tokens": "params_max_tokens",
}
LATENCY_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": "ttft_s",
    "vllm:inter_token_latency_seconds": "inter_token_s",
    "vllm:e2e_request_latency_seconds": "e2e_s",
    "vllm:request_queue_time_seconds": "queue_s",
    "vllm:request_prefill_time_seconds": "prefill_s",
    "vllm:request_decode_time_seconds": "decode_s",
    "vllm:request_inference_time_seconds": "inference_s",
    "vllm:request_time_per_output_token_seconds": "time_per_output_token_s",
}


def totals(run: TraceRun, recorded: Json) -> Json:
    """Totals of a whole run, also for traces without recorded steps."""
    values = run.values
    state = run.states[-1][1]
    return {
        "totals": {name: state[name] for name in recorded["totals"]},
        "final_usage": values.kv_cache_usage,
        "request_success": {reason: values.success[FinishReason(reason)] for reason in recorded["request_success"]},
        "prompt_tokens_by_source": {
            "local_compute": values.prompt_tokens - values.prompt_cached,
            "local_cache_hit": values.prompt_cached,
        },
    }


def step_numbers(run: TraceRun) -> Json:
    """Untimed numbers that are derived from steps."""
    steps = run.steps
    caching = run.engine.config.enable_prefix_caching
    hits = _by_request(steps, "new")
    preemptions = [{"step": number, "id": name} for number, step in _numbered(steps) for name in step["preempted"]]
    used = [step["used"] for step in steps]
    step_tokens = [sum(step["sched"].values()) for step in steps]
    return {
        "total_steps": len(steps),
        "max_running": max(step["run"] for step in steps),
        "max_waiting": max(step["wait"] for step in steps),
        "max_used_blocks": max(used),
        "usable_blocks": run.engine.scheduler.pool.usable,
        "max_step_tokens": max(step_tokens),
        "admission_step": {request: step for request, (step, _) in hits.items()},
        "cached_tokens_at_admission": {request: cached for request, (_, cached) in hits.items()},
        "per_request_prefix_cache": [
            {"id": request, "queries": run.prompt_tokens[request] if caching else 0, "hits": cached}
            for request, (_, cached) in hits.items()
        ],
        "preemptions": preemptions,
        "num_preemptions": len(preemptions),
        "resumes": _resumes(steps),
        "finish": [{"step": number, "id": name} for number, step in _numbered(steps) for name in step["finished"]],
        "used_blocks_after_schedule_runs": runs(used),
        "running_after_schedule_runs": runs(step["run"] for step in steps),
        "waiting_after_schedule_runs": runs(step["wait"] for step in steps),
        "step_tokens_runs": runs(step_tokens),
    }


def histogram_json(histogram: Histogram) -> Json:
    """A histogram in the format of the recordings, with cumulative buckets."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    below, buckets = 0, dict[str, int]()
    for bound, observed in zip(bounds, histogram.counts, strict=True):
        below += observed
        buckets[bound] = below
    return {"buckets": buckets, "sum": histogram.total, "count": below}


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Run-length pairs [count, value]."""
    return [[len(list(group)), value] for value, group in groupby(numbers)]


def _numbered(steps: Sequence[Json]) -> Iterable[tuple[int, Json]]:
    return enumerate(steps, 1)


def _by_request(steps: Sequence[Json], field: str) -> dict[str, tuple[int, int]]:
    """The step number and the value of `field` for each request."""
    return {request: (number, value) for number, step in _numbered(steps) for request, value in step[field].items()}


def _resumes(steps: Sequence[Json]) -> Json:
    found: dict[str, list[dict[str, Any]]] = {}
    for number, step in _numbered(steps):
        for request, cached in step["resumed"].items():
            found.setdefault(request, []).append({"step": number, "cached_tokens": cached})
    return found
