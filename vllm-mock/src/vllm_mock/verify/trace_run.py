"""Runs the workload of a recorded trace through the engine, step by step at the recorded times."""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineRequest
from vllm_mock.engine.scheduler import Scheduler
from vllm_mock.engine.sequence_state import Schedule
from vllm_mock.engine.speed import StepTime
from vllm_mock.metrics.engine_metrics import EngineMetrics
from vllm_mock.metrics.values import Values
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.recorded_server import engine_config

Json = dict[str, Any]
_SETTINGS = (
    "max_num_seqs",
    "num_gpu_blocks",
    "block_size",
    "max_num_batched_tokens",
    "enable_prefix_caching",
    "max_model_len",
    "enable_chunked_prefill",
)
_OVERHEAD_S = 0.6e-3
"""Time of a recorded step above its floor. Measured: 0.5 to 1 ms."""
_LONGEST_STEP_S = 0.02
"""If the next step begins later than the floor by more than this, the engine was idle in between. Measured: stretched
steps of 20 ms took up to 35 ms."""


def recorded_prompt(workload: Json) -> tuple[int, ...]:
    """The token ids of a recorded request, by the rule in the README of the recordings."""
    shared = workload.get("shared_prefix_tokens", 0)
    prefix = _ids(workload["shared_prefix_seed"], shared) if shared else []
    return (*prefix, *_ids(workload["seed"], workload["prompt_tokens"] - shared))


def recorded_request(request_id: str, workload: Json, max_model_len: int) -> EngineRequest:
    """The engine's request for a recorded one. vLLM cuts `max_tokens` to the rest of the context."""
    prompt = recorded_prompt(workload)
    return EngineRequest(
        request_id=request_id,
        prompt=prompt,
        seed=1 + zlib.crc32(repr(prompt).encode()),
        max_tokens=min(workload["max_tokens"], max_model_len - workload["prompt_tokens"]),
        lora=workload.get("lora"),
        cache_salt=workload.get("cache_salt"),
    )


def _ids(seed: int, count: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(10, 990) for _ in range(count)]


class UniqueText:
    """Samples output tokens that differ between requests with different prompts.

    Requests with equal prompts get equal tokens, as at temperature 0.
    """

    def token(self, request: EngineRequest, position: int) -> int:
        return (request.seed << 20) + position


def sampled(values: Values) -> dict[str, float]:
    """Values by the names in the samples of the recordings."""
    return {
        "running": values.running,
        "waiting": values.waiting_capacity + values.waiting_deferred,
        "kv_cache_usage": values.kv_cache_usage,
        "num_preemptions_total": values.preemptions,
        "prompt_tokens_total": values.prompt_tokens,
        "generation_tokens_total": values.generation_tokens,
        "prefix_cache_queries_total": values.prefix_queries,
        "prefix_cache_hits_total": values.prefix_hits,
    }


@dataclass(slots=True)
class TraceRun:
    """A replay of a trace: the engine and its steps."""

    engine: Engine
    steps: list[Json] = field(default_factory=list[Json])
    """Steps in the format of the recording, without times."""
    prompt_tokens: dict[str, int] = field(default_factory=dict[str, int])
    """Prompt tokens of each request that has arrived."""
    states: list[tuple[float, dict[str, float]]] = field(default_factory=list[tuple[float, dict[str, float]]])
    """For each step, its end in seconds and the values that a sample shows from then on."""

    @property
    def values(self) -> Values:
        return self.engine.metrics.values


def engine_for(trace: Json, start: ServeSettings) -> Engine:
    """An engine with the settings of `start`, overridden by those of the trace. Its own step times are not used."""
    recorded = trace["config"]
    config = replace(engine_config(start), **{name: recorded[name] for name in _SETTINGS if name in recorded})
    return Engine(config, UniqueText(), StepTime(0.0, 0.0, 0.0, 0.0), EngineMetrics(config, start.names[0]))


def step_by_step(trace: Json, run: TraceRun) -> Iterator[Json]:
    """Yields each recorded step after the engine's corresponding step, which is the last of `run.steps`.

    Ends early if the engine has no work.
    """
    engine = run.engine
    run.states.append((0.0, sampled(run.values)))
    arrivals = _Arrivals(trace, run)
    for recorded, end_s in zip(trace["steps"], _ends_s(trace), strict=True):
        arrivals.before(recorded)
        if engine.begin_step(recorded["t"]) is None:
            return
        schedule = engine.current_step
        assert schedule is not None
        during = _during(engine.scheduler, schedule)
        given = engine.end_step(end_s)
        finished = [new.request_id for new in given if new.finish_reason is not None]
        state = sampled(run.values)
        reported = [state["running"], state["waiting"], state["kv_cache_usage"]]
        run.steps.append(during | {"finished": finished, "reported": reported})
        run.states.append((end_s, state))
        arrivals.left(len(finished))
        yield recorded


def _ends_s(trace: Json) -> list[float]:
    """The end of each step in seconds: the beginning of the next, unless the engine was idle in between."""
    begins_s: list[float] = [step["t"] for step in trace["steps"]]
    floor_s = trace["step_floor_ms"] / 1000
    ends_s = [begin_s + floor_s + _OVERHEAD_S for begin_s in begins_s]
    return [
        next_s if next_s is not None and next_s - begin_s < floor_s + _LONGEST_STEP_S else end_s
        for begin_s, end_s, next_s in zip(begins_s, ends_s, [*begins_s[1:], None], strict=True)
    ]


def _during(scheduler: Scheduler, schedule: Schedule) -> Json:
    """The state after scheduling and before the step generates tokens."""
    return {
        "run": len(scheduler.running),
        "wait": len(scheduler.waiting),
        "used": scheduler.pool.used,
        "sched": {live.request_id: count for live, count in zip(schedule.scheduled, schedule.counts, strict=True)},
        "new": {live.request_id: live.hit_tokens for live in schedule.new},
        "resumed": {live.request_id: live.hit_tokens for live in schedule.resumed},
        "preempted": [live.request_id for live in schedule.preempted],
        "blocks": {live.request_id: len(live.blocks) for live in scheduler.running},
    }


class _Arrivals:
    """Submits the recorded requests to the engine at the steps at which the recording shows them."""

    def __init__(self, trace: Json, run: TraceRun) -> None:
        self._kind: str = trace["arrival"]
        self._run = run
        self._live = 0
        limit = run.engine.config.max_model_len
        self._coming = [
            (0.0 if self._kind == "burst" else request["sent_s"], recorded_request(request["id"], work, limit))
            for request, work in zip(trace["requests"], trace["workload"], strict=True)
        ]
        if self._kind == "burst":
            while self._coming:
                self._add()

    def before(self, recorded: Json) -> None:
        """Submits the requests that arrive before a step.

        For `timed` arrivals, the step's running and waiting requests show how many have arrived.
        """
        if self._kind == "sequential" and not self._live:
            self._add()
        if self._kind == "timed":
            while self._coming and self._live < recorded["run"] + recorded["wait"]:
                self._add()

    def left(self, count: int) -> None:
        self._live -= count

    def _add(self) -> None:
        sent_s, request = self._coming.pop(0)
        self._run.engine.add(request, sent_s)
        self._run.prompt_tokens[request.request_id] = len(request.prompt)
        self._live += 1
