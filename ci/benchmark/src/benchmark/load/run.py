"""Sends a workload at a pace."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from benchmark.load.connection import OK, Connections, RequestFailed, Response
from benchmark.load.pace import Pace, arrival_times_s
from benchmark.load.samples import LoadResult, Sample
from benchmark.load.target import Message, Target, request_bytes
from benchmark.workload import Conversation, Prompt, Workload

DEFAULT_TIMEOUT_S = 6 * 3600.0
"""The timeout of vLLM's client. It exceeds every queueing time, so that the server ends each request."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run, reported after each request."""

    total: int
    done: int
    """Ended requests, failed ones included."""
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
    """Sends every request of the workload and waits for all responses.

    A failed request gives a sample with an error, and ends its conversation. `seed` determines the arrivals of an open
    loop. Raises ValueError for a target that is no URL."""
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
    """Sends the workload's first prompt `requests` times at the pace's concurrency, and discards the responses.

    Compilation and connection setup of the first requests then do not count in the measured run."""
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
    """The state of one run."""

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
        """Plays one conversation. Its first request is number `index` of the workload."""
        async with places or contextlib.nullcontext():
            before: tuple[Message, ...] = ()
            for number, turn in enumerate(turns):
                more_to_come = number + 1 < len(turns)
                sample = await self._send(turn, index + number, arrived_s, before, self._keep_text or more_to_come)
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

    async def _send(
        self, prompt: Prompt, index: int, arrived_s: float, before: tuple[Message, ...], keep_text: bool
    ) -> Sample:
        response = Response(keep_text)
        request = request_bytes(self._target, index, prompt, before, self._workload.ignore_eos)
        start_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connections.send(request, response)
            error = _error_of(response)
        except RequestFailed as failure:
            error = str(failure)
        except TimeoutError:
            error = f"no complete response within {self._timeout_s:g} s"
        events = response.events
        usage = events.usage
        return Sample(
            arrived_s=arrived_s,
            started_s=start_s - self._began_s,
            token_times_s=np.array(events.times_s) - start_s,
            ended_s=time.perf_counter() - start_s,
            prompt_tokens=usage.prompt_tokens if usage else prompt.tokens,
            output_tokens=usage.completion_tokens if usage else len(events.times_s),
            planned_prompt_tokens=prompt.tokens,
            status=response.status,
            error=error,
            text=events.text if keep_text else None,
        )


class _ErrorDetail(msgspec.Struct, frozen=True):
    message: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error format, and the flat one of vLLM until 0.10.1."""

    error: _ErrorDetail | None = None
    message: str = ""


def _error_of(response: Response) -> str | None:
    """Why a response that arrived in full is a failure; None if it is none."""
    if response.status != OK:
        return f"HTTP status {response.status}: {_error_message(response.body)}"
    if response.events.error is not None:
        return response.events.error
    if not response.events.times_s:
        return "the response contained no token"
    return None if response.events.done else "the stream ended without [DONE]"


def _error_message(body: bytes) -> str:
    """The message of an error response's body, or its first 200 bytes."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode(errors="replace").strip() or "(no body)"
    return (error.error.message if error.error else error.message) or body[:200].decode(errors="replace")
