"""The prompts that are sent to `/tokenize`, and the handling of the responses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import pytest
from event_server import running, until
from fleet import endpoint
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.kv_event_index import KvEventIndex
from picker.endpoints.prefix_cache.kv_events.messages import BlockStored
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks, chain_root, token_chain
from picker.rejection import Rejection
from picker.requestcontrol import tokenize_client
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import read_body
from picker.requestcontrol.served_pool import ServedPool
from picker.requestcontrol.tokenize_client import TokenizeClient
from picker.resources.inference import (
    AppProtocol,
    Criticality,
    InferenceModel,
    InferencePool,
    RoutingStrategy,
    TargetModel,
)
from picker.resources.names import ObjectName, PoolName
from picker.scheduling.scheduler import Scheduler

POOL = PoolName("inference.networking.x-k8s.io", "default", "qwen")
SIZE = 16
CHAT = "/v1/chat/completions"
SYSTEM = " ".join(f"word-{number}" for number in range(300))


def conversation(question: str, system: str = SYSTEM) -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


@dataclass
class Fleet:
    """One server that makes a token of four characters, with a director and a client of its `/tokenize`."""

    server: Endpoint = field(default_factory=lambda: endpoint(1))
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The bodies of the calls of `/tokenize`, with the URL."""
    response: Any = None
    """A response or error in place of the tokens."""
    strings: bool = True
    """Whether the response has `token_strs`."""

    def __post_init__(self) -> None:
        self.reported = ReportedBlocks()
        self.reported.follow(self.server)
        self.reported.restart(self.server, empty=True)
        self.index = KvEventIndex(BLOCK_TOKENS, self.reported, [self.server])
        self.client = TokenizeClient(httpx.MockTransport(self._respond))
        pool = InferencePool(POOL, {"app": "qwen"}, (8000,), None, AppProtocol.HTTP, RoutingStrategy.DEFAULT)
        model = InferenceModel(
            ObjectName("default", "m"), POOL, "alias", Criticality.STANDARD, (TargetModel("qwen", 1),), None
        )
        self.director = Director(InFlightTracker(), lambda: 1.0, Random(1), unknown_models=True)
        scheduler = Scheduler(pool.strategy, self.index, Random(1))
        self.director.serve([ServedPool(pool, {"alias": model}, [self.server], scheduler, self.index)], POOL)
        self.director.on_repeated = self.client.repeated

    def token_strings(self, body: dict[str, Any]) -> list[str]:
        messages = body.get("messages")
        if messages is None:
            text = body["prompt"]
        else:
            text = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        return [text[start : start + 4] for start in range(0, len(text), 4)]

    def token_ids(self, body: dict[str, Any]) -> list[int]:
        return [int.from_bytes(string.encode()[:3], "big") for string in self.token_strings(body)]

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self.response, httpx.TransportError):
            raise self.response
        body = json.loads(request.content)
        self.calls.append({"url": str(request.url), **body})
        if self.response is not None:
            return self.response
        tokens = self.token_ids(body)
        content: dict[str, Any] = {"count": len(tokens), "max_model_len": 4096, "tokens": tokens}
        if self.strings:
            content["token_strs"] = self.token_strings(body)
        return httpx.Response(200, json=content)

    def assign(self, path: str = CHAT, **body: Any) -> InFlightRequest:
        body = {"model": "qwen", "max_tokens": 5, "stream": True, **body}
        read = read_body(json.dumps(body).encode(), strict=True)
        assert not isinstance(read, Rejection)
        assigned = self.director.assign(PickRequest(None, read, None, info=RequestInfo(path.partition("?")[0])))
        assert isinstance(assigned, InFlightRequest)
        return assigned

    def report_blocks(self, **body: Any) -> None:
        """The server reports the blocks of the prompt by a KV event."""
        tokens = self.token_ids(body)
        full = len(tokens) // SIZE * SIZE
        hashes = token_chain(tokens, SIZE, chain_root(SIZE, None))
        self.reported.apply(self.server, [BlockStored(hashes, None, tokens[:full], SIZE)])

    async def serve(self, path: str = CHAT, **body: Any) -> InFlightRequest:
        """Assigns a request, and ends it."""
        assigned = self.assign(path, **body)
        if "messages" in body or isinstance(body.get("prompt"), str):
            self.report_blocks(**body)
        self.director.ended(assigned)
        await self.client.drained()
        return assigned

    @asynccontextmanager
    async def tokenizing(self) -> AsyncIterator[None]:
        async with running(asyncio.create_task(self.client.run())):
            yield


async def test_a_repeated_prompt_is_tokenized_after_it_was_served() -> None:
    fleet = Fleet()
    async with fleet.tokenizing():
        await fleet.serve(messages=conversation("first"))
        assert fleet.calls == [], "it may not repeat"
        again = fleet.assign(messages=conversation("second"))
        fleet.report_blocks(messages=conversation("second"))
        assert fleet.calls == [], "no request waits for it"
        fleet.director.ended(again)
        await fleet.client.drained()
        [call] = fleet.calls
        assert call["url"] == "http://10.0.0.1:8000/tokenize"
        assert (call["messages"], call["model"]) == (conversation("second"), "qwen")
        await fleet.serve(messages=conversation("third"))
        assert len(fleet.calls) == 1


@pytest.mark.parametrize("strings", [True, False], ids=["with the tokens' text", "without"])
async def test_after_tokenizing_the_servers_reports_are_used(strings: bool) -> None:
    fleet = Fleet(strings=strings)
    async with fleet.tokenizing():
        for question in ("first", "second"):
            await fleet.serve(messages=conversation(question))
        third = await fleet.serve(messages=conversation("third"))
        assert third.ranking.cached_tokens > 0.8 * len(SYSTEM) / 4
        fleet.reported.restart(fleet.server, empty=True)
        fourth = fleet.assign(messages=conversation("fourth"))
        assert fourth.ranking.cached_tokens == 0


async def test_a_prompt_of_completions_is_tokenized_too() -> None:
    fleet = Fleet()
    async with fleet.tokenizing():
        for question in ("first", "second"):
            await fleet.serve("/v1/completions?a=b", prompt=SYSTEM + question)
        [call] = fleet.calls
        assert call["prompt"] == SYSTEM + "second"


async def test_the_call_has_the_servers_name_of_the_model() -> None:
    fleet = Fleet()
    async with fleet.tokenizing():
        for question in ("first", "second"):
            await fleet.serve(model="alias", messages=conversation(question))
        assert fleet.calls[0]["model"] == "qwen"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"cache_salt": "mine"}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SYSTEM}}]}]}),
        ("/v1/responses", {"messages": None, "input": SYSTEM}),
    ],
    ids=["salted", "with an image", "another route"],
)
async def test_a_prompt_whose_hashes_cover_more_than_text_is_not_tokenized(path: str, body: dict[str, Any]) -> None:
    fleet = Fleet()
    async with fleet.tokenizing():
        for question in ("first", "second", "third"):
            fleet.report_blocks(messages=conversation(question))
            assigned = fleet.assign(path, **{"messages": conversation(question), **body})
            fleet.director.ended(assigned)
            await fleet.client.drained()
    assert fleet.calls == []


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(404, text="no such route"),
        httpx.Response(200, text="rubbish"),
        httpx.Response(200, json={"tokens": ["a"]}),
        httpx.Response(200, json={"tokens": [1 << 63] * 500}),
        httpx.Response(200, json={"tokens": []}),
        httpx.Response(200, content=b'{"tokens": [' + b"1," * 2_000_000 + b"1]}"),
        httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f\x8b")),
    ],
    ids=["no route", "no JSON", "no tokens", "beyond numbers", "none", "too long", "compressed"],
)
async def test_an_invalid_response_maps_nothing_and_is_not_requested_again(response: httpx.Response) -> None:
    fleet = Fleet(response=response)
    async with fleet.tokenizing():
        for question in ("first", "second", "third", "fourth"):
            await fleet.serve(messages=conversation(question))
        assert 1 <= len(fleet.calls) <= 3
        assert fleet.assign(messages=conversation("fifth")).ranking.cached_tokens > 0


async def test_a_slow_response_is_ended_by_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_client, "TIMEOUT_S", 0.05)

    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

    fleet = Fleet(response=httpx.Response(200, stream=Slow()))
    async with fleet.tokenizing(), asyncio.timeout(5):
        for question in ("first", "second"):
            await fleet.serve(messages=conversation(question))
        await fleet.client.drained()
    assert len(fleet.calls) >= 1


async def test_a_prompt_is_requested_again_after_a_connection_error() -> None:
    fleet = Fleet(response=httpx.ConnectError("refused"))
    async with fleet.tokenizing():
        for question in ("first", "second"):
            await fleet.serve(messages=conversation(question))
        fleet.response = None
        await fleet.serve(messages=conversation("third"))
        assert len(fleet.calls) == 1


async def test_a_prompt_that_does_not_fit_the_queue_is_requested_when_it_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenize_client, "MAX_WAITING", 1)
    fleet = Fleet()
    others = [SYSTEM[::-1], SYSTEM[5:]]
    for system in others:
        for question in ("first", "second"):
            fleet.report_blocks(messages=conversation(question, system))
            fleet.director.ended(fleet.assign(messages=conversation(question, system)))
    async with fleet.tokenizing():
        await fleet.client.drained()
        assert len(fleet.calls) == 1
        await fleet.serve(messages=conversation("third", others[1]))
        assert len(fleet.calls) == 2


async def test_an_unexpected_error_does_not_stop_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet()

    def fail(*_: object) -> int:
        raise RuntimeError("unexpected")

    monkeypatch.setattr(fleet.index, "learn", fail)
    async with fleet.tokenizing():
        for question in ("first", "second"):
            await fleet.serve(messages=conversation(question))
        monkeypatch.undo()
        for question in ("first", "second"):
            await fleet.serve(messages=conversation(question, system=SYSTEM[::-1]))
        await until(lambda: len(fleet.calls) == 2)


async def test_the_bytes_of_kept_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_client, "MAX_KEPT_BYTES", 1000)
    fleet = Fleet()
    async with fleet.tokenizing():
        for question in ("first", "second"):
            await fleet.serve(messages=conversation(question))
    assert fleet.calls == []
