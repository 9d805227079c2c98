"""Recorded HTTP exchanges, made again with the mock on a loopback port."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from vllm_mock.api.api_server import Door
from vllm_mock.api.running import Listener, listen, serving
from vllm_mock.serve import build_door
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.compare import first_difference, first_line_difference, header_difference, holds_probabilities
from vllm_mock.verify.exchanges import Exchange, RecordedResponse, read_exchange
from vllm_mock.verify.fixture import (
    Situation,
    filling,
    inferred,
    surroundings,
    with_flags,
    with_loras,
)
from vllm_mock.verify.recorded_server import RecordedServer, read_server
from vllm_mock.verify.recorded_text import RecordedScripts, RecordedText
from vllm_mock.verify.result import Result

_TIMEOUT_S = 30.0
_AT_A_TIME = 16
_OF_FOLDER: dict[str, Callable[[Exchange, ServeSettings], Situation]] = {
    "http": lambda exchange, start: Situation(start),
    "flags/http": with_flags,
    "lora/http": with_loras,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the mock answered."""

    status: int
    headers: dict[str, str]
    content: bytes


def verify_http(folder: Path, part: str) -> Iterator[Result]:
    """One result for each exchange in `folder`/`part`: `http`, `flags/http` or `lora/http`."""
    files = sorted((folder / part).glob("*.json"))
    exchanges = [read_exchange(file) for file in files]
    server = read_server(folder)
    around = surroundings(folder / part, exchanges)
    situations: list[Situation] = []
    for file, exchange in zip(files, exchanges, strict=True):
        start = server.settings(f"{part}/{file.name}")
        if not server.is_described:
            start = inferred(part, exchange, around, start)
        situations.append(_OF_FOLDER[part](exchange, start))
    differences = asyncio.run(_replay_all(list(zip(exchanges, situations, strict=True)), server))
    for file, difference in zip(files, differences, strict=True):
        yield Result(f"{part}/{file.name}", difference)


async def _replay_all(cases: Sequence[tuple[Exchange, Situation]], server: RecordedServer) -> list[str | None]:
    """The difference of each. Some at a time: they mostly wait for servers to start and to end."""
    free = asyncio.Semaphore(_AT_A_TIME)

    async def difference(exchange: Exchange, situation: Situation) -> str | None:
        async with free:
            try:
                return exchange_difference(exchange, await replay(exchange, situation, server))
            except (LookupError, TypeError, ValueError, TimeoutError, httpx.HTTPError) as error:
                return f"cannot be replayed: {error!r}"

    return await asyncio.gather(*(difference(*case) for case in cases))


async def replay(exchange: Exchange, situation: Situation, server: RecordedServer) -> Answer:
    """Make the exchange with a fresh server."""
    text = RecordedText(exchange, server.vocabulary_size, server.end_of_sequence)
    door = build_door(situation.settings, text, RecordedScripts(text), situation.adapters)
    async with client_of(door) as client:
        key = next(iter(situation.settings.api_key), None)
        client.headers["authorization"] = f"Bearer {key}"
        for path, body in situation.before:
            (await client.post(path, json=body)).raise_for_status()
        async with in_flight(client, door, situation.in_flight):
            del client.headers["authorization"]
            text.listen()
            return await _send(client, exchange)


@contextlib.asynccontextmanager
async def client_of(door: Door) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that adds no headers of its own to what httpx must send."""
    listener = Listener(door, listen("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.port}"
    async with serving([listener]), httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as client:
        for name in ("accept", "accept-encoding", "user-agent"):
            del client.headers[name]
        yield client


@contextlib.asynccontextmanager
async def in_flight(client: httpx.AsyncClient, door: Door, count: int) -> AsyncGenerator[None]:
    """As many completions are being answered until the block is left."""
    longest = door.replica.max_model_len
    bodies = [filling(number, longest) for number in range(count)]
    tasks = [asyncio.create_task(client.post("/v1/completions", json=body)) for body in bodies]
    await until(lambda: not count or door.replica.engine.engine.live_requests >= count)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    """Until something that a server does has come about; it has no event. Raises TimeoutError."""
    async with asyncio.timeout(_TIMEOUT_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def _send(client: httpx.AsyncClient, exchange: Exchange) -> Answer:
    request = exchange.request
    response = await client.request(request.method, request.path, headers=request.headers, content=request.content)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, response.content)


def exchange_difference(exchange: Exchange, answer: Answer) -> str | None:
    """The first; None where the mock answered as vLLM did."""
    recorded = exchange.response
    if answer.status != recorded.status:
        return f"status {answer.status}, recorded {recorded.status}: {answer.content[:200].decode(errors='replace')}"
    exact = not recorded.body_omitted and not holds_probabilities(recorded.fields)
    headers = {name.lower(): value for name, value in recorded.headers.items()}
    difference = _body_difference(recorded, answer.content)
    return difference or header_difference(headers, answer.headers, exact, exchange.request.header("x-request-id"))


def _body_difference(recorded: RecordedResponse, content: bytes) -> str | None:
    if recorded.body_omitted:
        return None
    if recorded.body_lines is not None:
        ours = content.decode().split("\n")
        return first_line_difference([each.line for each in recorded.body_lines], ours)
    if recorded.body is msgspec.UNSET:
        text = content.decode()
        return None if text == (recorded.body_text or "") else f"body is {text!r}, recorded {recorded.body_text!r}"
    try:
        body: Any = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return f"body is not JSON: {content[:100]!r}"
    return first_difference(recorded.body, body)
