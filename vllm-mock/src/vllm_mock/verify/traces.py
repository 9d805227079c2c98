"""Replays recorded scheduler traces against the engine step by step.

Compared are:

- every field of every step, and all untimed numbers
- every sample of /metrics: it must be a state of the engine, in order, within `_SAMPLE_SLACK_S`
- the histograms of tokens and requests
- the number of observations of times, and their sum if the replay has the recorded step times

Times measured by clients are not compared.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_mock.engine.speed import StepTime
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.recorded_server import read_server
from vllm_mock.verify.result import Result
from vllm_mock.verify.trace_run import Json, TraceRun, engine_for, recorded_request, sampled, step_by_step
from vllm_mock.verify.untimed import (
    LATENCY_HISTOGRAMS,
    REQUEST_HISTOGRAMS,
    histogram_json,
    step_numbers,
    totals,
)

_SAMPLE_SLACK_S = 0.06
"""Tolerated time between a sample and the steps that it shows. /metrics is served by another process than the one that
runs steps, on the recording's two busy cores."""
_STEP_S = 0.0023
"""Step time of the replay of a trace that was recorded without steps."""
_RELATIVE_TOLERANCE = 0.15
"""Tolerated relative difference of sums of times."""
_TOLERANCE_S = 0.004
"""Tolerated difference per observation: the precision to which the end of a step is known."""


def verify_traces(folder: Path) -> Iterator[Result]:
    """Yields one result for each file under `folder`/traces."""
    server = read_server(folder)
    for file in sorted((folder / "traces").glob("*.json")):
        trace: Json = json.loads(file.read_text())
        steps = len(trace.get("steps", ()))
        note = f"{steps} steps, {len(trace.get('samples', ()))} samples" if steps else "no steps recorded: totals"
        yield Result(f"traces/{file.name}", first_difference(trace, server.settings(f"traces/{file.name}")), note)


def first_difference(trace: Json, start: ServeSettings) -> str | None:
    """The first difference between the engine and the recording. None if there is none."""
    run = TraceRun(engine_for(trace, start))
    if "steps" not in trace:
        _run_freely(trace, run)
        return _totals(trace, run) or _histograms(trace, run, with_steps=False)
    for recorded in step_by_step(trace, run):
        for name, mine in run.steps[-1].items():
            if not _same(name, recorded[name], mine):
                return f"step {recorded['step']}: {name} is {mine}, recorded {recorded[name]}"
    if len(run.steps) < len(trace["steps"]):
        return f"step {len(run.steps) + 1}: recorded, but the engine has no work"
    if run.engine.live_requests:
        return f"{run.engine.live_requests} requests are not finished after the recording's last step"
    return (
        _totals(trace, run)
        or _step_numbers(trace, run)
        or _samples(trace, run)
        or _histograms(trace, run, with_steps=True)
    )


def _run_freely(trace: Json, run: TraceRun) -> None:
    """Replays a trace without recorded steps in virtual time. Every request arrives when it was sent."""
    run.engine.step_time = StepTime(_STEP_S, 0.0, 0.0, 0.0)
    limit = run.engine.config.max_model_len
    for request, work in zip(trace["requests"], trace["workload"], strict=True):
        run.engine.submit(recorded_request(request["id"], work, limit), request["sent_s"])
    run.engine.advance_to(1e6)
    run.states.append((1e6, sampled(run.values)))


def _same(name: str, recorded: Any, ours: Any) -> bool:
    if name == "reported":
        # The recording rounds the usage.
        return recorded[:2] == ours[:2] and abs(recorded[2] - ours[2]) < 5e-4
    if name in ("preempted", "finished"):
        return sorted(recorded) == sorted(ours)
    return recorded == ours


def _totals(trace: Json, run: TraceRun) -> str | None:
    return _unequal(trace["speed_free"], totals(run, trace["speed_free"]))


def _step_numbers(trace: Json, run: TraceRun) -> str | None:
    """The first difference in untimed numbers of steps. Requests of one step may end in any order."""
    recorded = trace["speed_free"]
    difference = _unequal(recorded, step_numbers(run))
    if difference is not None:
        return difference
    ended = {name: number for number, step in enumerate(run.steps) for name in step["finished"]}
    order = [ended[name] for name in recorded["ordering_by_end"]]
    if order != sorted(order):
        return f"speed_free.ordering_by_end: requests end in the order {list(ended)}"
    return None


def _unequal(recorded: Json, ours: Json) -> str | None:
    for name, mine in ours.items():
        if name in recorded and not _equal(recorded[name], mine):
            return f"speed_free.{name} is {mine}, recorded {recorded[name]}"
    return None


def _equal(recorded: Any, ours: Any) -> bool:
    """Whether two values are equal. Lists of events may have any order."""
    if isinstance(recorded, list) and recorded and isinstance(recorded[0], dict):
        return len(recorded) == len(ours) and all(event in recorded for event in ours)  # pyright: ignore[reportUnknownArgumentType]
    return recorded == ours


def _samples(trace: Json, run: TraceRun) -> str | None:
    """The first sample that shows no state of the engine in order and near its time."""
    paused = trace.get("sample_while_paused")
    if paused is not None and not _shows(paused, run.states[0][1]):
        return f"sample_while_paused is {run.states[0][1]}, recorded {paused}"
    position = 0
    for index, sample in enumerate(trace.get("samples", ())):
        found = _state_for(sample, run, position)
        if found is None:
            end_s, state = run.states[position]
            return f"sample {index} at {sample['t']} s: no such state after {end_s:.3f} s ({state}), recorded {sample}"
        position = found
    return None


def _state_for(sample: Json, run: TraceRun, position: int) -> int | None:
    """The position of the next state that `sample` can show. None if there is none."""
    states = run.states
    for index in range(position, len(states)):
        since_s = states[index][0]
        until_s = states[index + 1][0] if index + 1 < len(states) else float("inf")
        if since_s > sample["t"] + _SAMPLE_SLACK_S:
            return None
        if until_s + _SAMPLE_SLACK_S >= sample["t"] and _shows(sample, states[index][1]):
            return index
    return None


def _shows(sample: Json, state: dict[str, float]) -> bool:
    return all(abs(sample[name] - value) < 5e-4 for name, value in state.items() if name in sample)


def _histograms(trace: Json, run: TraceRun, with_steps: bool) -> str | None:
    of = run.values.histograms
    ours = histogram_json(of["step_tokens"])
    recorded = trace["iteration_tokens_histogram"]
    if recorded != ours if with_steps else recorded["sum"] != ours["sum"]:
        return f"iteration_tokens_histogram is {ours}, recorded {recorded}"
    for name, recorded in trace["request_histograms"].items():
        ours = histogram_json(of[REQUEST_HISTOGRAMS[name]])
        if recorded != ours:
            return f"{name} is {ours}, recorded {recorded}"
    for name, recorded in trace["latency_histograms"].items():
        histogram = of[LATENCY_HISTOGRAMS[name]]
        if recorded["count"] != histogram.count:
            return f"{name}_count is {histogram.count}, recorded {recorded['count']}"
        apart_s = abs(recorded["sum"] - histogram.total)
        if with_steps and apart_s > max(_RELATIVE_TOLERANCE * recorded["sum"], _TOLERANCE_S * histogram.count):
            return f"{name}_sum is {histogram.total:.3f}, recorded {recorded['sum']:.3f}"
    return None
