"""Sending a workload at a pace."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from benchmark.load.connection import OK, Answer, Connections, RequestFailed
from benchmark.load.pace import Pace, arrival_times_s
from benchmark.load.samples import LoadResult, Sample
from benchmark.load.target import Message, Target, request_bytes
from benchmark.workload import Conversation, Prompt, Workload

DEFAULT_TIMEOUT_S = 6 * 3600.0
"""As vLLM's client has it: long enough for every queue, so that a request ends by the server's doing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after each request."""

    total: int
    done: int
    """Failed ones among them."""
    failed: int
    output_tokens: int


async def run_load(
    target: Target,
    workload: Workload,
    pace: Pace,
    *,
    seed: int = 0,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    keep_text: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> LoadResult:
    """Send every request of the workload and wait for all answers. A failed request is a sample with an error, and ends
    its conversation. `seed` decides the arrivals of an open loop. Raises ValueError for a target that is no URL."""
    async with Connections(target.url) as connections:
        run = _Run(target, workload, connections, timeout_s, keep_text, on_progress)
        places = asyncio.Semaphore(pace.max_concurrency) if pace.max_concurrency else None
        async with asyncio.TaskGroup() as conversations:
            index = 0
            async for turns, arrived_s in _arriving(workload, arrival_times_s(pace, len(workload.conversations), seed)):
                conversations.create_task(run.converse(turns, index, arrived_s, places))
                index += len(turns)
    return run.result()


async def warm_up(target: Target, workload: Workload, pace: Pace, requests: int) -> None:
    """Send the workload's first prompt so many times, at the pace's concurrency, and look at no answer: what a server
    compiles or connects on its first requests is done then."""
    first = replace(workload, conversations=(workload.conversations[0][:1],) * requests)
    await run_load(target, first, Pace(pace.max_concurrency))


async def _arriving(workload: Workload, times_s: list[float]) -> AsyncIterator[tuple[Conversation, float]]:
    began_s = time.perf_counter()
    for turns, due_s in zip(workload.conversations, times_s, strict=True):
        wait_s = began_s + due_s - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        yield turns, due_s


class _Run:
    """One run's state."""

    def __init__(
        self,
        target: Target,
        workload: Workload,
        connections: Connections,
        timeout_s: float,
        keep_text: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._target = target
        self._workload = workload
        self._connections = connections
        self._timeout_s = timeout_s
        self._keep_text = keep_text
        self._on_progress = on_progress
        self._samples: list[Sample | None] = [None] * len(workload)
        self._done = self._failed = self._output_tokens = 0
        self._began_s = time.perf_counter()

    def result(self) -> LoadResult:
        samples = tuple(sample for sample in self._samples if sample is not None)
        return LoadResult(self._workload, samples, time.perf_counter() - self._began_s, self._began_s)

    async def converse(
        self, turns: Conversation, index: int, arrived_s: float, places: asyncio.Semaphore | None
    ) -> None:
        """One conversation, whose first request is the workload's `index`-th."""
        async with places or contextlib.nullcontext():
            before: tuple[Message, ...] = ()
            for number, turn in enumerate(turns):
                more_to_come = number + 1 < len(turns)
                sample = await self._ask(turn, index + number, arrived_s, before, self._keep_text or more_to_come)
                self._count(index + number, sample)
                if sample.error is not None:
                    return
                if more_to_come:
                    before = (*before, Message("user", turn.text), Message("assistant", sample.text or ""))
                    arrived_s = time.perf_counter() - self._began_s

    def _count(self, index: int, sample: Sample) -> None:
        self._samples[index] = sample
        self._done += 1
        self._failed += sample.error is not None
        self._output_tokens += sample.output_tokens
        if self._on_progress is not None:
            self._on_progress(Progress(len(self._samples), self._done, self._failed, self._output_tokens))

    async def _ask(
        self, prompt: Prompt, index: int, arrived_s: float, before: tuple[Message, ...], keep_text: bool
    ) -> Sample:
        answer = Answer(keep_text)
        request = request_bytes(self._target, index, prompt, before, self._workload.ignore_eos)
        start_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connections.ask(request, answer)
            error = _wrong_with(answer)
        except RequestFailed as failure:
            error = str(failure)
        except TimeoutError:
            error = f"no complete answer within {self._timeout_s:g} s"
        events = answer.events
        usage = events.usage
        return Sample(
            arrived_s=arrived_s,
            started_s=start_s - self._began_s,
            token_times_s=np.array(events.times_s) - start_s,
            ended_s=time.perf_counter() - start_s,
            prompt_tokens=usage.prompt_tokens if usage else prompt.tokens,
            output_tokens=usage.completion_tokens if usage else len(events.times_s),
            planned_prompt_tokens=prompt.tokens,
            status=answer.status,
            error=error,
            text=events.text if keep_text else None,
        )


class _ErrorDetail(msgspec.Struct, frozen=True):
    message: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's shape, and the flat one that vLLM had before 0.10.2."""

    error: _ErrorDetail | None = None
    message: str = ""


def _wrong_with(answer: Answer) -> str | None:
    """Why an answer that came whole is none; None if it is one."""
    if answer.status != OK:
        return f"HTTP status {answer.status}: {_told(answer.body)}"
    if answer.events.error is not None:
        return answer.events.error
    if not answer.events.times_s:
        return "the answer held no token"
    return None if answer.events.done else "the stream ended without [DONE]"


def _told(body: bytes) -> str:
    """What an error body says."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode(errors="replace").strip() or "(no body)"
    return (error.error.message if error.error else error.message) or body[:200].decode(errors="replace")
