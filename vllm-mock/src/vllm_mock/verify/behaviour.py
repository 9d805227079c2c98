"""Recorded behaviours beyond a single exchange: disconnects, queues and changes of counters.

Each behaviour is reproduced with a running mock. The number of tokens at a disconnect depends on the clock and is not
compared. Everything else is.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec

from vllm_mock.settings import ServeSettings
from vllm_mock.verify.behaviour_shutdown import SHUTDOWNS
from vllm_mock.verify.exchanges import Json
from vllm_mock.verify.recorded_server import read_server
from vllm_mock.verify.result import Result
from vllm_mock.verify.running_mock import RunningMock, delta_difference, prompt, running_mock

Scenario = Callable[[Json, ServeSettings], Awaitable[str | None]]
_AT_A_TIME = 4
_LONG = 1000
"""Output tokens of a request that lasts until its client disconnects."""
_PROMPT_TOKENS = 60
"""Prompt tokens of requests whose clients disconnect."""


def verify_behaviour(folder: Path) -> Iterator[Result]:
    """Yields one result for each behaviour in `folder`/behaviour*.json."""
    server = read_server(folder)
    named: list[tuple[str, str, Json, ServeSettings]] = []
    for file in sorted(folder.glob("behaviour*.json")):
        content: Any = msgspec.json.decode(file.read_bytes())
        records: list[Json] = cast(list[Json], content) if isinstance(content, list) else [content]
        for record in records:
            name = record.get("name", file.stem.removeprefix("behaviour-"))
            named.append((f"{file.name}: {name}", name, record, server.settings(f"{file.name}#{name}")))
    differences = asyncio.run(_differences([(name, record, start) for _, name, record, start in named]))
    for (row, name, *_), difference in zip(named, differences, strict=True):
        yield Result(row, difference, "" if name in SCENARIOS else "not compared: no scenario reproduces this")


async def _differences(records: Sequence[tuple[str, Json, ServeSettings]]) -> list[str | None]:
    """The difference of each record. Several run concurrently, because scenarios mostly wait."""
    free = asyncio.Semaphore(_AT_A_TIME)

    async def difference(name: str, record: Json, start: ServeSettings) -> str | None:
        async with free:
            try:
                return await SCENARIOS[name](record, start) if name in SCENARIOS else None
            except (LookupError, TypeError, ValueError, TimeoutError, httpx.HTTPError) as error:
                return f"cannot be reproduced: {error!r}"

    return await asyncio.gather(*(difference(*record) for record in records))


def _long(mock: RunningMock, prompt_tokens: int) -> int:
    """Output tokens of a request that lasts until its client disconnects, within the server's context."""
    return min(_LONG, mock.api_server.replica.max_model_len - prompt_tokens)


@contextlib.asynccontextmanager
async def _requests(
    mock: RunningMock, count: int, stream: bool = True, first: int = 1000
) -> AsyncGenerator[list[asyncio.Task[None]]]:
    """Starts `count` long completions. Cancelling a task disconnects its client."""

    async def complete(number: int) -> None:
        own = prompt(_PROMPT_TOKENS, first + number)
        body = {"prompt": own, "max_tokens": _long(mock, _PROMPT_TOKENS), "ignore_eos": True, "stream": stream}
        async with mock.client.stream("POST", "/v1/completions", json=body) as response:
            async for _ in response.aiter_bytes():
                pass

    tasks = [asyncio.create_task(complete(number)) for number in range(count)]
    try:
        yield tasks
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnect(record: Json, start: ServeSettings, stream: bool) -> str | None:
    async with running_mock(start) as mock, _requests(mock, 1, stream) as tasks:
        before = await mock.when(running=1, generated=record["before_close"]["generation_tokens_total"])
        await _cancel(*tasks)
        after = await mock.when(running=0)
    first = delta_difference(record["before_close"], before, relative=True)
    return first or delta_difference(record["after_close"], after, relative=True)


async def _disconnect_later(record: Json, start: ServeSettings) -> str | None:
    async with running_mock(start) as mock, _requests(mock, 1) as tasks:
        await mock.when(running=1, generated=record["delta"]["generation_tokens_total"])
        await _cancel(*tasks)
        left = await mock.when(running=0)
        await mock.complete(prompt=prompt(9), max_tokens=1)
        later = await mock.delta()
    # The disconnected request must not be counted later, when another request finishes.
    if later["generation_tokens_total"] != left["generation_tokens_total"] + 1:
        return "tokens were counted after the client had disconnected"
    return delta_difference(record["delta"], left, relative=True)


async def _queue(record: Json, start: ServeSettings) -> str | None:
    """max_num_seqs requests run and three wait. A queued client disconnects, then a running one, then all."""
    running, name = start.max_num_seqs, record["name"]
    async with running_mock(start) as mock, _requests(mock, running) as tasks:
        await mock.when(running=running)
        async with _requests_after(mock, 3) as queued:
            before = await mock.when(running=running, waiting=3)
            await _cancel(queued[1])
            after = await mock.when(waiting=2)
            if name == "disconnect-in-queue":
                first = delta_difference(record["before"], before, relative=True)
                return first or delta_difference(record["after"], after, relative=True)
            await _cancel(tasks[0])
            refilled = await mock.when(running=running, waiting=1)
            refilled = await mock.when(running=running, waiting=1, generated=refilled["generation_tokens_total"] + 1)
            if name == "slot-freed-by-abort":
                return delta_difference(record["after"], refilled, relative=True)
            # The queue first: otherwise a queued request would take a freed slot.
            await _cancel(queued[-1])
            await mock.when(waiting=0)
            await _cancel(*tasks, *queued)
            over = await mock.when(running=0, waiting=0)
            return delta_difference(record["delta"], over, relative=True)


@contextlib.asynccontextmanager
async def _requests_after(mock: RunningMock, count: int) -> AsyncGenerator[list[asyncio.Task[None]]]:
    """Starts `count` long completions, each once the one before is queued."""
    async with contextlib.AsyncExitStack() as stack:
        tasks: list[asyncio.Task[None]] = []
        for number in range(count):
            tasks += await stack.enter_async_context(_requests(mock, 1, first=2000 + number))
            await mock.when(waiting=number + 1)
        yield tasks


async def _metrics_while_queued(record: Json, start: ServeSettings) -> str | None:
    running = start.max_num_seqs
    async with running_mock(start) as mock, _requests(mock, running):
        await mock.when(running=running)
        await mock.mark()
        async with _requests(mock, 1):
            last = (await mock.when(waiting=1)).get("generation_tokens_total", 0.0)
            for sample in record["samples"]:
                ours = await mock.when(generated=last + 1)
                if (ours["num_requests_running"], ours["num_requests_waiting"]) != (
                    sample["num_requests_running"],
                    sample["num_requests_waiting"],
                ):
                    return f"{ours['num_requests_running']:g} running, recorded {sample['num_requests_running']:g}"
                last = ours["generation_tokens_total"]
                if sample["generation_tokens_total"] % running or last % running:
                    return f"{last:g} tokens: not one for each running request and step"
    return None


async def _queued_then_run(record: Json, start: ServeSettings) -> str | None:
    running = start.max_num_seqs
    tokens = int(record["delta"]["request_generation_tokens_sum"])
    async with running_mock(start) as mock, _requests(mock, running) as tasks:
        await mock.when(running=running)
        await mock.mark()
        body = {"prompt": prompt(_PROMPT_TOKENS, 5000), "max_tokens": tokens}
        queued = asyncio.create_task(mock.complete(**body))
        await mock.when(waiting=1)
        await mock.when(generated=running)
        await _cancel(*tasks)
        await queued
        return delta_difference(record["delta"], await mock.delta(), relative=True, alone=False)


async def _before_finish(record: Json, start: ServeSettings) -> str | None:
    async with running_mock(start) as mock, _requests(mock, 1):
        ours = await mock.when(running=1, generated=record["delta"]["generation_tokens_total"])
        return delta_difference(record["delta"], ours, relative=True)


async def _usage_arithmetic(record: Json, start: ServeSettings) -> str | None:
    blocks = (start.num_gpu_blocks_override or 0) - 1
    for row in record["rows"]:
        async with running_mock(start.model_copy(update={"time_scale": 4.0})) as mock:
            count, generated = int(row["prompt"]), int(row["generated"])
            max_tokens = min(generated + _LONG, start.max_model_len - count)
            body = {"prompt": prompt(count), "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
            async with mock.client.stream("POST", "/v1/completions", json=body):
                ours = await mock.when(running=1, generated=generated)
                tokens = count + ours["generation_tokens_total"] - 1
                used = round(ours["kv_cache_usage_perc"] * blocks)
                if used != -(-tokens // start.block_size):
                    return f"{used} blocks hold {tokens:g} tokens"
    return None


async def _prefix_counts(record: Json, start: ServeSettings) -> str | None:
    blocks = prompt(int(record["first"]["prompt_tokens_total"]))
    tokens = int(record["first"]["generation_tokens_total"])
    bodies: dict[str, Json] = {
        "first": {"prompt": blocks},
        "again": {"prompt": blocks},
        "plus3": {"prompt": [*blocks, 1, 2, 3]},
        "other_salt": {"prompt": blocks, "cache_salt": "other"},
    }
    async with running_mock(start) as mock:
        for name, body in bodies.items():
            await mock.mark()
            await mock.complete(**body, max_tokens=tokens, ignore_eos=True)
            difference = delta_difference(record[name], await mock.delta())
            if difference is not None:
                return f"{name}: {difference}"
    return None


async def _prompt_logprobs(record: Json, start: ServeSettings) -> str | None:
    repeated = prompt(int(record["delta"]["prompt_tokens_total"]))
    async with running_mock(start) as mock:
        await mock.complete(prompt=repeated, max_tokens=3)
        await mock.mark()
        await mock.complete(prompt=repeated, max_tokens=1, echo=True, logprobs=1)
        return delta_difference(record["delta"], await mock.delta())


async def _counted(record: Json, start: ServeSettings, prompts: int = 1, samples: int = 1) -> str | None:
    """One request with several sequences: the changes by all of them."""
    delta = record["delta"]
    count = int(delta["prompt_tokens_total"]) // (prompts * samples)
    tokens = int(delta["generation_tokens_total"]) // (prompts * samples)
    texts = [prompt(count, 100 + number) for number in range(prompts)]
    async with running_mock(start) as mock:
        body = {"prompt": texts if prompts > 1 else texts[0], "n": samples, "max_tokens": tokens, "ignore_eos": True}
        await mock.complete(**body)
        return delta_difference(delta, await mock.delta())


async def _rejected(record: Json, start: ServeSettings) -> str | None:
    async with running_mock(start) as mock:
        for body in ({"model": "/model/other", "prompt": "x"}, {"prompt": ""}, {"prompt": "x", "temperature": -1}):
            if (await mock.client.post("/v1/completions", json=body)).is_success:
                return f"{body} is not rejected"
        return delta_difference(record["delta"], await mock.delta())


async def _load(record: Json, start: ServeSettings) -> str | None:
    async with running_mock(start) as mock, _requests(mock, 3):
        await mock.when(running=3)
        ours = (await mock.client.get("/load")).json()
        return None if ours == record["body"] else f"/load is {ours}, recorded {record['body']}"


async def _generated_is_cached(record: Json, start: ServeSettings) -> str | None:
    settings = start.model_copy(update={"enable_prompt_tokens_details": True})
    for number, row in enumerate(record["rows"]):
        async with running_mock(settings) as mock:
            first = prompt(row["prompt"], 10 + number)
            body: Json = {"prompt": first, "max_tokens": row["generated"], "ignore_eos": True, "return_token_ids": True}
            output = (await mock.complete(**body))["choices"][0]["token_ids"]
            more = row["second_prompt"] - row["prompt"] - row["generated"]
            answer = await mock.complete(prompt=[*first, *output, *range(5000, 5000 + more)], max_tokens=1)
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            if cached != row["cached_tokens"]:
                after = f"{row['prompt']} and {row['generated']} tokens"
                return f"{cached} tokens cached after {after}, recorded {row['cached_tokens']}"
    return None


async def _admission_rejections(record: Json, start: ServeSettings) -> str | None:
    running, waiting = int(record["before"]["running"]), int(record["before"]["waiting"])
    limit = start.max_num_queued_reqs or running + waiting
    settings = start.model_copy(update={"max_num_seqs": running, "max_num_queued_reqs": limit})
    async with running_mock(settings) as mock, _requests(mock, running + waiting):
        await mock.when(running=running, waiting=waiting)
        for _ in range(2):
            await mock.client.post("/v1/completions", json={"prompt": "x"})
        page = (await mock.client.get("/metrics")).text
        missing = [line for line in record["lines"] if line not in page.splitlines()]
        return f"/metrics lacks {missing[0]}" if missing else None


async def _engine_abort(record: Json, start: ServeSettings) -> str | None:
    async with running_mock(start.model_copy(update={"dev_mode": True})) as mock:
        body: Json = {"prompt": prompt(_PROMPT_TOKENS), "max_tokens": _long(mock, _PROMPT_TOKENS), "ignore_eos": True}
        completion = asyncio.create_task(mock.complete(**body))
        await mock.when(generated=record["completion_tokens"])
        paused = await mock.client.post("/pause?mode=abort")
        answer = await completion
        ours = await mock.delta()
    reason = answer["choices"][0]["finish_reason"]
    if (paused.status_code, reason) != (record["pause_status"], record["finish_reason"]):
        return f"finish_reason {reason}, recorded {record['finish_reason']}"
    for name in ("e2e_request_latency_seconds_count", "request_generation_tokens_count"):
        if ours.get(name, 0) != record["delta"][name]:
            return f"{name} is {ours.get(name, 0):g}, recorded {record['delta'][name]:g}"
    aborted = ours.get("request_success_total{abort}", 0)
    return None if aborted == record["delta"]["abort"] else f"{aborted:g} aborts counted"


SCENARIOS: dict[str, Scenario] = {
    "disconnect-mid-stream": lambda record, start: _disconnect(record, start, stream=True),
    "disconnect-mid-stream-later": _disconnect_later,
    "disconnect-non-stream": lambda record, start: _disconnect(record, start, stream=False),
    "disconnect-in-queue": _queue,
    "slot-freed-by-abort": _queue,
    "all-aborted": _queue,
    "metrics-while-queued": _metrics_while_queued,
    "queued-then-run": _queued_then_run,
    "observed-before-finish": _before_finish,
    "usage-arithmetic": _usage_arithmetic,
    "prefix-cache-token-counts": _prefix_counts,
    "prompt-logprobs-skip-cache": _prompt_logprobs,
    "n-2": lambda record, start: _counted(record, start, samples=2),
    "prompt-list-3": lambda record, start: _counted(record, start, prompts=3),
    "max-tokens-1": _counted,
    "rejected-requests": _rejected,
    "load-endpoint": _load,
    "generated-tokens-are-cached": _generated_is_cached,
    "admission-rejection-metrics": _admission_rejections,
    "engine-abort": _engine_abort,
    **SHUTDOWNS,
}
