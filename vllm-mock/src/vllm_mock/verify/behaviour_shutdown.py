"""Recorded ends of a server: a mock in a process of its own, and SIGTERM."""

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
from vllm_mock.verify.running_mock import prompt

_TIMEOUT_S = 30.0
_PROMPT_TOKENS = 20
_LONGEST = 3000
"""Tokens: an answer that lasts until the signal."""
_ERROR_STATUS = 500
"""Of an answer whose status line was not recorded."""
_OF_THE_CONNECTION = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})
"""Headers that say how an answer was sent, not what it says."""
_SHORTER = 2.0
"""Waits that the server was told to make are this many times shorter than recorded."""


@dataclass(frozen=True, slots=True)
class _Server:
    process: Process
    client: httpx.AsyncClient

    def post(self, **body: object) -> Awaitable[httpx.Response]:
        asked = {"prompt": prompt(_PROMPT_TOKENS), "ignore_eos": True, **body}
        return self.client.post("/v1/completions", json=asked)

    async def running(self, count: int) -> None:
        """Until as many requests run or wait."""
        async with asyncio.timeout(_TIMEOUT_S):
            while await self._live() != count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def _live(self) -> float:
        page = (await self.client.get("/metrics")).text
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)", page, re.MULTILINE)
        return sum(map(float, found))

    async def refuses(self) -> bool:
        """Whether nobody listens any more."""
        with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):
            try:
                await self.client.get("/health")
            except httpx.ConnectError:
                return True
        return False


def _flags(start: ServeSettings) -> Iterator[str]:
    """The limits of `start` as flags of `vllm-mock serve`."""
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
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_TIMEOUT_S) as client:
            async with asyncio.timeout(_TIMEOUT_S):
                while await _Server(process, client).refuses():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield _Server(process, client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def at_once(record: Json, start: ServeSettings) -> str | None:
    """Without a timeout: a stream ends with an error event, a whole answer becomes an error, the process goes."""
    longest = min(_LONGEST, start.max_model_len - _PROMPT_TOKENS)
    async with _server(start) as server:
        lines: list[str] = []

        async def stream() -> None:
            body = {"prompt": prompt(_PROMPT_TOKENS), "max_tokens": longest, "ignore_eos": True, "stream": True}
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
        return different or (None if await server.refuses() else "the port is still open")


def whole_difference(record: Json, answer: httpx.Response) -> str | None:
    """Of the answer that was not a stream."""
    recorded = response_of(record["non_stream_response"])
    if answer.status_code != (recorded.status or _ERROR_STATUS):
        return f"the whole answer has status {answer.status_code}, recorded {recorded.status or _ERROR_STATUS}"
    different = first_difference(recorded.body, answer.json())
    if different is not None:
        return f"the whole answer: {different}"
    for name, value in recorded.headers.items():
        if name not in _OF_THE_CONNECTION and answer.headers.get(name) != value:
            return f"header {name} is {answer.headers.get(name)}, recorded {value}"
    return None


def stream_difference(record: Json, lines: Sequence[str]) -> str | None:
    """Of the stream's end: the error that the other answer has, and whatever of the end was recorded whole."""
    ours, recorded = events_of(lines), events_of(record["stream_tail"])
    error = response_of(record["non_stream_response"]).body
    expected = recorded[-2:] if len(recorded) > 1 else [error, *(recorded or ["[DONE]"])]
    if first_difference(expected, ours[-2:]) is not None:
        return f"the stream ends {ours[-2:]}, recorded {expected}"
    return None


async def with_timeout(record: Json, start: ServeSettings) -> str | None:
    """With one: what runs is finished, new completions are refused, and the process stays for the whole time."""
    timeout_s, sequences = start.shutdown_timeout, start.max_num_seqs
    if not timeout_s:
        # Without server.yaml the record's own words say it.
        found = re.search(r"--shutdown-timeout (\d+).*max_num_seqs (\d+)", record["what"])
        if found is None:
            return "neither server.yaml nor the record says the timeout"
        timeout_s, sequences = float(found[1]), int(found[2])
    timeout_s /= _SHORTER
    tokens: list[int] = [each["completion_tokens"] for each in record["requests"]]
    flags = ("--shutdown-timeout", str(timeout_s), "--time-scale", str(_SHORTER))
    start = start.model_copy(update={"max_num_seqs": sequences})
    async with _server(start, *flags) as server:
        asked = [asyncio.ensure_future(server.post(max_tokens=each)) for each in tokens]
        await server.running(len(tokens))
        server.process.send_signal(signal.SIGTERM)
        started_s = time.monotonic()
        first = record["probes"][0]
        # The signal and the probe race; the server has it when it refuses a completion.
        async with asyncio.timeout(timeout_s):
            while (await server.post(max_tokens=1)).status_code == 200:
                pass
        refused = (await server.post(max_tokens=1)).status_code
        health = (await server.client.get("/health")).status_code
        if health != first["health"]:
            return f"/health is {health} after the signal, recorded {first['health']}"
        if refused != first.get("one_new_completion", 500):
            return f"a new completion gets {refused}, recorded {first['one_new_completion']}"
        answers = [(await each).json() for each in asked]
        ours = [(each["usage"]["completion_tokens"], each["choices"][0]["finish_reason"]) for each in answers]
        theirs = [(each["completion_tokens"], each["finish_reason"]) for each in record["requests"]]
        if ours != theirs:
            return f"the running requests end {ours}, recorded {theirs}"
        async with asyncio.timeout(_TIMEOUT_S):
            await server.process.wait()
        lasted_s = time.monotonic() - started_s
        return None if lasted_s >= timeout_s else f"the process was gone after {lasted_s:.2f} of {timeout_s:.2f} s"


SHUTDOWNS: dict[str, Callable[[Json, ServeSettings], Awaitable[str | None]]] = {
    "sigterm": at_once,
    "sigterm-with-shutdown-timeout": with_timeout,
    "sigterm-with-shutdown-timeout-and-new-request": with_timeout,
}
