"""Recorded ends of a server: a mock in a process of its own, and SIGTERM."""

import asyncio
import contextlib
import re
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import httpx

from vllm_mock.server.running import listen
from vllm_mock.verify.exchanges import Json
from vllm_mock.verify.running_mock import prompt

_STEP_S = 0.01
_TIMEOUT_S = 30.0
_SHORTER = 2.0
"""Waits that the server was told to make are this many times shorter than recorded."""


@dataclass(frozen=True, slots=True)
class _Server:
    process: Process
    client: httpx.AsyncClient

    def post(self, **body: object) -> Awaitable[httpx.Response]:
        asked = {"prompt": prompt(20), "ignore_eos": True, **body}
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


@contextlib.asynccontextmanager
async def _server(*flags: str) -> AsyncGenerator[_Server]:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = (
        sys.executable, "-m", "vllm_mock.cli", "serve", "--host", "127.0.0.1", "--port", str(port),
        "--tokenizer", "approximate", "--step-floor-s", str(_STEP_S), *flags,
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


async def at_once(record: Json) -> str | None:
    """Without a timeout: a stream ends with an error event, a whole answer becomes an error, the process goes."""
    async with _server() as server:
        lines: list[str] = []

        async def stream() -> None:
            body = {"prompt": prompt(20), "max_tokens": 3000, "ignore_eos": True, "stream": True}
            async with server.client.stream("POST", "/v1/completions", json=body) as response:
                lines.extend([line async for line in response.aiter_lines()])

        streaming = asyncio.create_task(stream())
        whole = asyncio.ensure_future(server.post(max_tokens=3000))
        await server.running(2)
        server.process.send_signal(signal.SIGTERM)
        answer = await whole
        await streaming
        async with asyncio.timeout(_TIMEOUT_S):
            await server.process.wait()
        error = record["non_stream_response"][-1]
        if (answer.status_code, answer.text) != (500, error):
            return f"the whole answer is {answer.status_code} {answer.text}, recorded 500 {error}"
        headers = dict(line.split(": ", 1) for line in record["non_stream_response"][:-1])
        for name, value in headers.items():
            if answer.headers.get(name) != value:
                return f"header {name} is {answer.headers.get(name)}, recorded {value}"
        told = [line for line in lines if line][-2:]
        if told != [f"data: {error}", record["stream_tail"][1]]:
            return f"the stream ends {told}, recorded with the error as an event and {record['stream_tail'][1]}"
        return None if await server.refuses() else "the port is still open"


async def with_timeout(record: Json) -> str | None:
    """With one: what runs is finished, new completions are refused, and the process stays for the whole time."""
    found = re.search(r"--shutdown-timeout (\d+).*max_num_seqs (\d+).*max_tokens \[([\d, ]+)\]", record["what"])
    if found is None:
        return "the record does not tell the timeout and the requests"
    timeout_s, tokens = float(found[1]) / _SHORTER, [int(each) for each in found[3].split(",")]
    flags = ("--shutdown-timeout", str(timeout_s), "--max-num-seqs", found[2], "--time-scale", str(_SHORTER))
    async with _server(*flags) as server:
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


SHUTDOWNS: dict[str, Callable[[Json], Awaitable[str | None]]] = {
    "sigterm": at_once,
    "sigterm-with-shutdown-timeout": with_timeout,
    "sigterm-with-shutdown-timeout-and-new-request": with_timeout,
}
