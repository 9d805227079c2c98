"""Recorded scheduler traces, replayed against the scheduler step by step."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_mock.engine.messages import EngineConfig, EngineRequest
from vllm_mock.engine.scheduler import Schedule, Scheduler
from vllm_mock.verify.result import Result

_SETTINGS = (
    "max_num_seqs",
    "num_gpu_blocks",
    "block_size",
    "max_num_batched_tokens",
    "enable_prefix_caching",
    "max_model_len",
    "enable_chunked_prefill",
)
Json = dict[str, Any]


def recorded_prompt(workload: Json) -> tuple[int, ...]:
    """The token ids of a recorded request (the recordings' README gives the rule)."""
    shared = workload.get("shared_prefix_tokens", 0)
    prefix = _ids(workload["shared_prefix_seed"], shared) if shared else []
    return (*prefix, *_ids(workload["seed"], workload["prompt_tokens"] - shared))


def _ids(seed: int, count: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(10, 990) for _ in range(count)]


class UniqueText:
    """Output tokens that never repeat between requests, as a model's would not for different prompts: requests with
    equal prompts get equal text, as at temperature 0."""

    def token(self, request: EngineRequest, position: int) -> int:
        return 1000 + hash((request.prompt, position)) % (1 << 40)


def verify_traces(folder: Path) -> Iterator[Result]:
    """One result for each file under `folder`/traces that has steps."""
    for file in sorted((folder / "traces").glob("*.json")):
        trace: Json = json.loads(file.read_text())
        name = f"traces/{file.name}"
        if "steps" not in trace:
            yield Result(name, None, "recorded without steps: nothing to compare step by step")
        else:
            yield Result(name, first_difference(trace), f"{len(trace['steps'])} steps")


def first_difference(trace: Json) -> str | None:
    """Where the scheduler leaves the recording; None when every step is the same."""
    config = EngineConfig(**{name: trace["config"][name] for name in _SETTINGS})
    scheduler = Scheduler(config, UniqueText())
    arrivals = _Arrivals(trace, scheduler)
    for recorded in trace["steps"]:
        arrivals.before(recorded)
        schedule = scheduler.schedule()
        if schedule is None:
            return f"step {recorded['step']}: the recording goes on, the scheduler has nothing to do"
        during = _during(scheduler, schedule)
        finished = [each.tokens.request_id for each in scheduler.complete() if each.tokens.finish_reason is not None]
        ours = during | {
            "finished": finished,
            "reported": [len(scheduler.running), len(scheduler.waiting), scheduler.pool.usage],
        }
        for field, mine in ours.items():
            if not _same(field, recorded[field], mine):
                return f"step {recorded['step']}: {field} is {mine}, recorded {recorded[field]}"
        arrivals.after(finished)
    if scheduler.running or scheduler.waiting:
        return f"{len(scheduler.running)} requests run on after the recording's last step"
    return None


def _during(scheduler: Scheduler, schedule: Schedule) -> Json:
    """The state just after scheduling, before the tokens of the step exist."""
    return {
        "run": len(scheduler.running),
        "wait": len(scheduler.waiting),
        "used": scheduler.pool.used,
        "sched": schedule.tokens,
        "new": schedule.new,
        "resumed": schedule.resumed,
        "preempted": list(schedule.preempted),
        "blocks": {live.request.request_id: len(live.blocks) for live in scheduler.running},
    }


def _same(field: str, recorded: Any, ours: Any) -> bool:
    if field == "reported":
        # The recording rounds the usage.
        return recorded[:2] == ours[:2] and abs(recorded[2] - ours[2]) < 5e-4
    if field in ("preempted", "finished"):
        return sorted(recorded) == sorted(ours)
    return recorded == ours


class _Arrivals:
    """Hands the recorded requests to the scheduler when the recording shows them to arrive."""

    def __init__(self, trace: Json, scheduler: Scheduler) -> None:
        self._kind: str = trace["arrival"]
        self._scheduler = scheduler
        self._coming = [
            EngineRequest(
                request_id=request["id"],
                prompt=recorded_prompt(work),
                max_tokens=min(work["max_tokens"], trace["config"]["max_model_len"] - work["prompt_tokens"]),
            )
            for request, work in zip(trace["requests"], trace["workload"], strict=True)
        ]
        self._live = 0
        if self._kind == "burst":
            while self._coming:
                self._add()

    def before(self, recorded: Json) -> None:
        """`timed`: the step's running and waiting requests tell how many have come."""
        if self._kind == "sequential" and not self._live:
            self._add()
        if self._kind == "timed":
            while self._live < recorded["run"] + recorded["wait"]:
                self._add()

    def after(self, finished: list[str]) -> None:
        self._live -= len(finished)

    def _add(self) -> None:
        self._scheduler.add(self._coming.pop(0))
        self._live += 1
