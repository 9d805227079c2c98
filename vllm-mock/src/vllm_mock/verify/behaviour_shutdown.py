"""Recorded shutdowns of a server. The mock runs in a process of its own and gets SIGTERM.

A loaded machine delays both processes. So no outcome depends on how fast a step, a request or a signal is: requests run
in slow motion until the server has handled the signal, and timeouts of the test only end a test that hangs.
"""

import asyncio
import contextlib
import re
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import httpx

from vllm_mock.api.running import listen
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.compare import first_difference
from vllm_mock.verify.cut_stream import events_of, response_of
from vllm_mock.verify.exchanges import Json
from vllm_mock.verify.http import NO_REUSE
from vllm_mock.verify.running_mock import prompt

_TIMEOUT_S = 60.0
"""Limit on each wait. Judgement: far above the time that a wait takes on a loaded machine."""
_NEVER_S = 100 * _TIMEOUT_S
"""A shutdown timeout that does not expire."""
_SLOW_STEPS = ("--time-scale", "10", "--slow-factor", "200")
"""Steps take 20 times their floor until the fault is cleared, and a tenth of it then. Judgement: the shortest recorded
answer of 60 tokens then lasts 12 s, and all three take less than a second after that."""
_PROMPT_TOKENS = 20
_LONGEST = 3000
"""Output tokens of a request that lasts until the signal."""
_ERROR_STATUS = 500
"""Status of a response whose status line was not recorded."""
_CONNECTION_HEADERS = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})
"""Headers that depend on the connection and are not compared."""
_SHORTER = 6.0
"""Factor by which the shutdown timeout that a test waits for is shorter than recorded."""


@dataclass(frozen=True, slots=True)
class _Server:
    process: Process
    client: httpx.AsyncClient

    def post(self, **body: object) -> Awaitable[httpx.Response]:
        return self.client.post("/v1/completions", json=_completion(**body))

    async def running(self, count: int) -> None:
        """Polls until `count` requests run or wait."""
        async with asyncio.timeout(_TIMEOUT_S):
            while await self._live() != count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def draining(self) -> None:
        """Polls until the server rejects new completions. Those that it still accepts are disconnected."""
        async with asyncio.timeout(_TIMEOUT_S):
            while await self._accepts():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def _accepts(self) -> bool:
        """Whether a new completion is accepted. A stream has its status before its first token."""
        body = _completion(max_tokens=1, stream=True)
        async with self.client.stream("POST", "/v1/completions", json=body) as response:
            return response.is_success

    async def _live(self) -> float:
        page = (await self.client.get("/metrics")).text
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)", page, re.MULTILINE)
        return sum(map(float, found))

    async def port_is_closed(self) -> bool:
        with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):
            try:
                await self.client.get("/health")
            except httpx.ConnectError:
                return True
        return False


def _completion(**fields: object) -> Json:
    return {"prompt": prompt(_PROMPT_TOKENS), "ignore_eos": True, **fields}


def _flags(start: ServeSettings) -> Iterator[str]:
    """Yields the limits of `start` as flags of `vllm-mock serve`."""
    limits = {
        "max-model-len": start.max_model_len,
        "max-num-seqs": start.max_num_seqs,
        "max-num-batched-tokens": start.max_num_batched_tokens,
        "block-size": start.block_size,
        "num-gpu-blocks-override": start.num_gpu_blocks_override,
        "step-floor-s": start.step_floor_s,
        "served-model-name": start.names[0],
    }
    for name, value in limits.items():
        if value is not None:
            yield from (f"--{name}", str(value))


@contextlib.asynccontextmanager
async def _server(start: ServeSettings, *more: str) -> AsyncGenerator[_Server]:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = (
        sys.executable, "-m", "vllm_mock.cli", "serve", "--host", "127.0.0.1", "--port", str(port),
        "--tokenizer", "approximate", *_flags(start), *more,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=NO_REUSE) as client:
            async with asyncio.timeout(_TIMEOUT_S):
                while await _Server(process, client).port_is_closed():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield _Server(process, client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def at_once(record: Json, start: ServeSettings) -> str | None:
    """Compares a shutdown without a timeout: a stream ends with an error event, another response becomes an error."""
    longest = min(_LONGEST, start.max_model_len - _PROMPT_TOKENS)
    async with _server(start, *_SLOW_STEPS) as server:
        lines: list[str] = []

        async def stream() -> None:
            body = _completion(max_tokens=longest, stream=True)
            async with server.client.stream("POST", "/v1/completions", json=body) as response:
                lines.extend([line async for line in response.aiter_lines()])

        streaming = asyncio.create_task(stream())
        whole = asyncio.ensure_future(server.post(max_tokens=longest))
        await server.running(2)
        server.process.send_signal(signal.SIGTERM)
        answer = await whole
        await streaming
        async with asyncio.timeout(_TIMEOUT_S):
            await server.process.wait()
        different = whole_difference(record, answer) or stream_difference(record, lines)
        return different or (None if await server.port_is_closed() else "the port is still open")


def whole_difference(record: Json, answer: httpx.Response) -> str | None:
    """The first difference of the response that was not a stream."""
    recorded = response_of(record["non_stream_response"])
    if answer.status_code != (recorded.status or _ERROR_STATUS):
        return f"the response has status {answer.status_code}, recorded {recorded.status or _ERROR_STATUS}"
    different = first_difference(recorded.body, answer.json())
    if different is not None:
        return f"the response: {different}"
    for name, value in recorded.headers.items():
        if name not in _CONNECTION_HEADERS and answer.headers.get(name) != value:
            return f"header {name} is {answer.headers.get(name)}, recorded {value}"
    return None


def stream_difference(record: Json, lines: Sequence[str]) -> str | None:
    """The difference at the end of the stream. It has the error of the other response, and what was recorded whole."""
    ours, recorded = events_of(lines), events_of(record["stream_tail"])
    error = response_of(record["non_stream_response"]).body
    expected = recorded[-2:] if len(recorded) > 1 else [error, *(recorded or ["[DONE]"])]
    if first_difference(expected, ours[-2:]) is not None:
        return f"the stream ends {ours[-2:]}, recorded {expected}"
    return None


async def with_timeout(record: Json, start: ServeSettings) -> str | None:
    """Compares a shutdown with a timeout: requests are finished, new ones rejected, and the process stays that long."""
    timeout_s, sequences = start.shutdown_timeout, start.max_num_seqs
    if not timeout_s:
        # Without server.yaml the record's description contains both.
        found = re.search(r"--shutdown-timeout (\d+).*max_num_seqs (\d+)", record["what"])
        if found is None:
            return "neither server.yaml nor the record contains the timeout"
        timeout_s, sequences = float(found[1]), int(found[2])
    draining = await _draining_difference(record, start.model_copy(update={"max_num_seqs": sequences}))
    return draining or await _exit_difference(start, timeout_s / _SHORTER)


async def _draining_difference(record: Json, start: ServeSettings) -> str | None:
    """The first difference between SIGTERM and the end of the last request."""
    tokens: list[int] = [request["completion_tokens"] for request in record["requests"]]
    async with _server(start, *_SLOW_STEPS, "--shutdown-timeout", str(_NEVER_S)) as server:
        completions = [asyncio.ensure_future(server.post(max_tokens=count)) for count in tokens]
        await server.running(len(tokens))
        server.process.send_signal(signal.SIGTERM)
        first = record["probes"][0]
        # The signal and the probe race. The server has handled the signal once it rejects a completion.
        await server.draining()
        rejected = (await server.post(max_tokens=1)).status_code
        health = (await server.client.get("/health")).status_code
        if health != first["health"]:
            return f"/health is {health} after the signal, recorded {first['health']}"
        if rejected != first.get("one_new_completion", _ERROR_STATUS):
            return f"a new completion gets {rejected}, recorded {first['one_new_completion']}"
        await server.client.delete("/mock/faults")
        answers = [(await completion).json() for completion in completions]
        ours = [(answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) for answer in answers]
        theirs = [(request["completion_tokens"], request["finish_reason"]) for request in record["requests"]]
        return None if ours == theirs else f"the running requests end {ours}, recorded {theirs}"


async def _exit_difference(start: ServeSettings, timeout_s: float) -> str | None:
    """Whether the process exits before its timeout although its last request ended before the signal."""
    async with _server(start, "--shutdown-timeout", str(timeout_s)) as server:
        await server.post(max_tokens=1)
        started_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(timeout_s + _TIMEOUT_S):
            await server.process.wait()
        lasted_s = time.monotonic() - started_s
        return None if lasted_s >= timeout_s else f"the process exited after {lasted_s:.2f} of {timeout_s:.2f} s"


SHUTDOWNS: dict[str, Callable[[Json, ServeSettings], Awaitable[str | None]]] = {
    "sigterm": at_once,
    "sigterm-with-shutdown-timeout": with_timeout,
    "sigterm-with-shutdown-timeout-and-new-request": with_timeout,
}
