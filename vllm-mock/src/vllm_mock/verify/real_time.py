"""Replays recorded scheduler traces over HTTP and in real time, as clients and /metrics see them.

Compared are results that do not depend on speed: every request's tokens and finish reason. For bursts and sequential
requests, cache hits, preemptions and steps are compared too. The note reports the duration relative to the recording.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec

from vllm_mock.settings import ServeSettings
from vllm_mock.verify.exchanges import Json
from vllm_mock.verify.http import until
from vllm_mock.verify.recorded_server import read_server
from vllm_mock.verify.result import Result
from vllm_mock.verify.running_mock import RunningMock, running_mock
from vllm_mock.verify.trace_run import recorded_prompt

_AT_A_TIME = 4
"""Traces that run concurrently. Judgement: each keeps one server and a few streams busy."""
_STEP_MS = 2.0
"""Step floor for a trace that was recorded without one."""
_OF_ANY_SPEED = ("prompt_tokens_total", "generation_tokens_total")


def verify_in_real_time(folder: Path) -> Iterator[Result]:
    """Yields one result for each file under `folder`/traces."""
    files = sorted((folder / "traces").glob("*.json"))
    server = read_server(folder)
    traces = [(msgspec.json.decode(file.read_bytes()), server.settings(f"traces/{file.name}")) for file in files]
    for file, (difference, note) in zip(files, asyncio.run(_all(traces)), strict=True):
        yield Result(f"traces/{file.name} over HTTP", difference, note)


async def _all(traces: list[tuple[Json, ServeSettings]]) -> list[tuple[str | None, str]]:
    free = asyncio.Semaphore(_AT_A_TIME)

    async def one(trace: Json, start: ServeSettings) -> tuple[str | None, str]:
        async with free:
            return await _replay(trace, start)

    return await asyncio.gather(*(one(*trace) for trace in traces))


async def _replay(trace: Json, start: ServeSettings) -> tuple[str | None, str]:
    """The first difference, and a note on the duration."""
    async with running_mock(_settings(trace, start)) as mock:
        answers = await _send_all(mock, trace)
        ours = await mock.delta()
    theirs: list[Json] = trace["requests"]
    for recorded, answer in zip(theirs, answers, strict=True):
        ended = (answer["tokens"], answer["finish_reason"])
        if ended != (recorded["output_tokens"], recorded["finish_reason"]):
            return f"{recorded['id']} ends {ended}", ""
    took = mean(answer["took_s"] for answer in answers) / mean(recorded["e2e_s"] for recorded in theirs)
    return _totals(trace, ours), f"requests took {took:.2f} of the recorded time"


def _settings(trace: Json, start: ServeSettings) -> ServeSettings:
    config = trace["config"]
    limits = {
        name: config[name]
        for name in ("max_num_seqs", "block_size", "max_num_batched_tokens", "enable_prefix_caching", "max_model_len")
        if name in config
    }
    floor_ms: float = trace.get("step_floor_ms") or _STEP_MS
    return start.model_copy(
        update={
            **limits,
            "num_gpu_blocks_override": config.get("num_gpu_blocks", start.num_gpu_blocks_override),
            "step_floor_s": floor_ms / 1000,
            "time_scale": 1.0,
        }
    )


async def _send_all(mock: RunningMock, trace: Json) -> list[Json]:
    """Sends the requests with the recorded arrival pattern."""
    workload: list[Json] = trace["workload"]
    engine = mock.api_server.replica.engine
    if trace["arrival"] == "sequential":
        return [await _one(mock, work) for work in workload]
    if trace["arrival"] == "timed":
        return await asyncio.gather(*(_one(mock, work, after_s=work["t"]) for work in workload))
    engine.stall()
    tasks: list[asyncio.Task[Json]] = []
    for number, work in enumerate(workload, start=1):
        tasks.append(asyncio.create_task(_one(mock, work)))
        await until(lambda queued=number: engine.engine.live_requests == queued)
    released_s = asyncio.get_running_loop().time()
    engine.resume()
    answers = await asyncio.gather(*tasks)
    return [{**answer, "took_s": answer["ended_s"] - released_s} for answer in answers]


async def _one(mock: RunningMock, work: Json, after_s: float = 0.0) -> Json:
    await asyncio.sleep(after_s)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    body: dict[str, Any] = {
        "prompt": list(recorded_prompt(work)),
        "max_tokens": work["max_tokens"],
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }
    tokens, reason = 0, None
    async with mock.client.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                tokens += 1
                reason = msgspec.json.decode(line[6:])["choices"][0]["finish_reason"]
    ended_s = loop.time()
    return {"tokens": tokens, "finish_reason": reason, "took_s": ended_s - started_s, "ended_s": ended_s}


def _totals(trace: Json, ours: dict[str, float]) -> str | None:
    recorded: Json = {name: value for name, value in trace["samples"][-1].items() if name.endswith("_total")}
    if trace["arrival"] == "timed" or "steps" not in trace:
        recorded = {name: recorded[name] for name in _OF_ANY_SPEED}
    else:
        histogram = trace["iteration_tokens_histogram"]
        recorded["iteration_tokens_total_count"] = histogram["count"]
        recorded["iteration_tokens_total_sum"] = histogram["sum"]
    for name, value in recorded.items():
        if ours.get(name, 0.0) != value:
            return f"{name} is {ours.get(name, 0.0):g}, recorded {value:g}"
    return None
