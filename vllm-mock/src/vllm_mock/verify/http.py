"""Replays recorded HTTP exchanges against the mock on a loopback port."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from vllm_mock.api.api_server import ApiServer
from vllm_mock.api.running import Listener, listen, serving
from vllm_mock.serve import build_api_server
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.compare import first_difference, first_line_difference, header_difference, holds_probabilities
from vllm_mock.verify.exchanges import Exchange, RecordedResponse, read_exchange
from vllm_mock.verify.fixture import (
    Fixture,
    filling,
    inferred,
    recording_config,
    with_flags,
    with_loras,
)
from vllm_mock.verify.recorded_server import RecordedServer, read_server
from vllm_mock.verify.recorded_text import RecordedOutputs, RecordedText
from vllm_mock.verify.result import Result

_TIMEOUT_S = 30.0
_AT_A_TIME = 16
_FIXTURES: dict[str, Callable[[Exchange, ServeSettings], Fixture]] = {
    "http": lambda exchange, start: Fixture(start),
    "flags/http": with_flags,
    "lora/http": with_loras,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The mock's response."""

    status: int
    headers: dict[str, str]
    content: bytes


def verify_http(folder: Path, part: str) -> Iterator[Result]:
    """Yields one result for each exchange in `folder`/`part`. `part` is `http`, `flags/http` or `lora/http`."""
    files = sorted((folder / part).glob("*.json"))
    exchanges = [read_exchange(file) for file in files]
    server = read_server(folder)
    config = recording_config(folder / part, exchanges)
    fixtures: list[Fixture] = []
    for file, exchange in zip(files, exchanges, strict=True):
        start = server.settings(f"{part}/{file.name}")
        if not server.is_described:
            start = inferred(part, exchange, config, start)
        fixtures.append(_FIXTURES[part](exchange, start))
    differences = asyncio.run(_replay_all(list(zip(exchanges, fixtures, strict=True)), server))
    for file, difference in zip(files, differences, strict=True):
        yield Result(f"{part}/{file.name}", difference)


async def _replay_all(cases: Sequence[tuple[Exchange, Fixture]], server: RecordedServer) -> list[str | None]:
    """The difference of each case. Several run concurrently, because they mostly wait for servers to start and end."""
    free = asyncio.Semaphore(_AT_A_TIME)

    async def difference(exchange: Exchange, fixture: Fixture) -> str | None:
        async with free:
            try:
                return exchange_difference(exchange, await replay(exchange, fixture, server))
            except (LookupError, TypeError, ValueError, TimeoutError, httpx.HTTPError) as error:
                return f"cannot be replayed: {error!r}"

    return await asyncio.gather(*(difference(*case) for case in cases))


async def replay(exchange: Exchange, fixture: Fixture, server: RecordedServer) -> Answer:
    """Replays the exchange against a fresh server."""
    text = RecordedText(exchange, server.vocabulary_size, server.end_of_sequence)
    api_server = build_api_server(fixture.settings, text, RecordedOutputs(text), fixture.adapters)
    async with client_of(api_server) as client:
        key = next(iter(fixture.settings.api_key), None)
        client.headers["authorization"] = f"Bearer {key}"
        for path, body in fixture.before:
            (await client.post(path, json=body)).raise_for_status()
        async with in_flight(client, api_server, fixture.in_flight):
            del client.headers["authorization"]
            text.start_replay()
            return await _send(client, exchange)


NO_REUSE = httpx.Limits(max_keepalive_connections=0)
"""A new connection for each request. The server closes an idle one after 5 s: on a stalled machine that happens just
when the client sends the next request on it, which then fails."""


@contextlib.asynccontextmanager
async def client_of(api_server: ApiServer) -> AsyncGenerator[httpx.AsyncClient]:
    """A served mock and its client, which sends no optional headers of its own."""
    listener = Listener(api_server, listen("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.port}"
    async with serving([listener]), httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=NO_REUSE) as client:
        for name in ("accept", "accept-encoding", "user-agent"):
            del client.headers[name]
        yield client


@contextlib.asynccontextmanager
async def in_flight(client: httpx.AsyncClient, api_server: ApiServer, count: int) -> AsyncGenerator[None]:
    """Runs `count` completions until the block is left."""
    longest = api_server.replica.max_model_len
    bodies = [filling(number, longest) for number in range(count)]
    tasks = [asyncio.create_task(client.post("/v1/completions", json=body)) for body in bodies]
    await until(lambda: not count or api_server.replica.engine.engine.live_requests >= count)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Polls until `condition` is true, for server state without an event. Raises TimeoutError."""
    async with asyncio.timeout(_TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def _send(client: httpx.AsyncClient, exchange: Exchange) -> Answer:
    request = exchange.request
    response = await client.request(request.method, request.path, headers=request.headers, content=request.content)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, response.content)


def exchange_difference(exchange: Exchange, answer: Answer) -> str | None:
    """The first difference between the recorded response and the mock's. None if there is none."""
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
        return first_line_difference([line.line for line in recorded.body_lines], ours)
    if recorded.body is msgspec.UNSET:
        text = content.decode()
        return None if text == (recorded.body_text or "") else f"body is {text!r}, recorded {recorded.body_text!r}"
    try:
        body: Any = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return f"body is not JSON: {content[:100]!r}"
    return first_difference(recorded.body, body)
