"""Which prompts the servers are asked about, and what becomes of their answers."""

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
    """One server, which tokenizes four characters a token, and the director before it."""

    where: Endpoint = field(default_factory=lambda: endpoint(1))
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    answers: Any = None
    """Instead of tokens."""
    strings: bool = True

    def __post_init__(self) -> None:
        self.held = ReportedBlocks()
        self.held.follow(self.where)
        self.held.restart(self.where, empty=True)
        self.index = KvEventIndex(BLOCK_TOKENS, self.held, [self.where])
        self.prompts = TokenizeClient(httpx.MockTransport(self._answer))
        pool = InferencePool(POOL, {"app": "qwen"}, (8000,), None, AppProtocol.HTTP, RoutingStrategy.DEFAULT)
        model = InferenceModel(
            ObjectName("default", "m"), POOL, "alias", Criticality.STANDARD, (TargetModel("qwen", 1),), None
        )
        self.director = Director(InFlightTracker(), lambda: 1.0, Random(1), unknown_models=True)
        scheduler = Scheduler(pool.strategy, self.index, Random(1))
        self.director.serve([ServedPool(pool, {"alias": model}, [self.where], scheduler, self.index)], POOL)
        self.director.on_repeated = self.prompts.repeated

    def pieces(self, asked: dict[str, Any]) -> list[str]:
        said = asked.get("messages")
        text = asked["prompt"] if said is None else "".join(f"<{each['role']}>{each['content']}" for each in said)
        return [text[start : start + 4] for start in range(0, len(text), 4)]

    def ids(self, asked: dict[str, Any]) -> list[int]:
        return [int.from_bytes(piece.encode()[:3], "big") for piece in self.pieces(asked)]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self.answers, httpx.TransportError):
            raise self.answers
        asked = json.loads(request.content)
        self.asked.append({"url": str(request.url), **asked})
        if self.answers is not None:
            return self.answers
        tokens = self.ids(asked)
        found: dict[str, Any] = {"count": len(tokens), "max_model_len": 4096, "tokens": tokens}
        if self.strings:
            found["token_strs"] = self.pieces(asked)
        return httpx.Response(200, json=found)

    def sends(self, path: str = CHAT, **body: Any) -> InFlightRequest:
        body = {"model": "qwen", "max_tokens": 5, "stream": True, **body}
        read = read_body(json.dumps(body).encode(), strict=True)
        assert not isinstance(read, Rejection)
        assigned = self.director.assign(PickRequest(None, read, None, info=RequestInfo(path.partition("?")[0])))
        assert isinstance(assigned, InFlightRequest)
        return assigned

    def computes(self, **body: Any) -> None:
        tokens = self.ids(body)
        full = len(tokens) // SIZE * SIZE
        hashes = token_chain(tokens, SIZE, chain_root(SIZE, None))
        self.held.apply(self.where, [BlockStored(hashes, None, tokens[:full], SIZE)])

    async def serves(self, path: str = CHAT, **body: Any) -> InFlightRequest:
        assigned = self.sends(path, **body)
        if "messages" in body or isinstance(body.get("prompt"), str):
            self.computes(**body)
        self.director.ended(assigned)
        await self.prompts.drained()
        return assigned

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        async with running(asyncio.create_task(self.prompts.run())):
            yield


async def test_a_prompt_whose_beginning_comes_again_is_asked_for_once_it_is_served() -> None:
    fleet = Fleet()
    async with fleet.asking():
        await fleet.serves(messages=conversation("first"))
        assert fleet.asked == [], "nobody knows whether it will come again"
        again = fleet.sends(messages=conversation("second"))
        fleet.computes(messages=conversation("second"))
        assert fleet.asked == [], "no request waits for it"
        fleet.director.ended(again)
        await fleet.prompts.drained()
        [asked] = fleet.asked
        assert asked["url"] == "http://10.0.0.1:8000/tokenize"
        assert (asked["messages"], asked["model"]) == (conversation("second"), "qwen")
        await fleet.serves(messages=conversation("third"))
        assert len(fleet.asked) == 1


@pytest.mark.parametrize("strings", [True, False], ids=["with the tokens' text", "without"])
async def test_then_the_servers_word_counts(strings: bool) -> None:
    fleet = Fleet(strings=strings)
    async with fleet.asking():
        for question in ("first", "second"):
            await fleet.serves(messages=conversation(question))
        third = await fleet.serves(messages=conversation("third"))
        assert third.ranking.cached_tokens > 0.8 * len(SYSTEM) / 4
        fleet.held.restart(fleet.where, empty=True)
        fourth = fleet.sends(messages=conversation("fourth"))
        assert fourth.ranking.cached_tokens == 0


async def test_a_prompt_of_completions_is_asked_for_as_well() -> None:
    fleet = Fleet()
    async with fleet.asking():
        for question in ("first", "second"):
            await fleet.serves("/v1/completions?a=b", prompt=SYSTEM + question)
        [asked] = fleet.asked
        assert asked["prompt"] == SYSTEM + "second"


async def test_servers_are_asked_by_their_own_name_of_the_model() -> None:
    fleet = Fleet()
    async with fleet.asking():
        for question in ("first", "second"):
            await fleet.serves(model="alias", messages=conversation(question))
        assert fleet.asked[0]["model"] == "qwen"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"cache_salt": "mine"}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SYSTEM}}]}]}),
        ("/v1/responses", {"messages": None, "input": SYSTEM}),
    ],
    ids=["salted", "with an image", "another route"],
)
async def test_what_more_than_text_names_is_not_asked_for(path: str, body: dict[str, Any]) -> None:
    fleet = Fleet()
    async with fleet.asking():
        for question in ("first", "second", "third"):
            fleet.computes(messages=conversation(question))
            assigned = fleet.sends(path, **{"messages": conversation(question), **body})
            fleet.director.ended(assigned)
            await fleet.prompts.drained()
    assert fleet.asked == []


@pytest.mark.parametrize(
    "answer",
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
async def test_an_answer_that_is_none_names_nothing_and_is_not_asked_for_again(answer: httpx.Response) -> None:
    fleet = Fleet(answers=answer)
    async with fleet.asking():
        for question in ("first", "second", "third", "fourth"):
            await fleet.serves(messages=conversation(question))
        assert 1 <= len(fleet.asked) <= 3
        assert fleet.sends(messages=conversation("fifth")).ranking.cached_tokens > 0


async def test_an_answer_has_a_time_in_all_however_it_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_client, "TIMEOUT_S", 0.05)

    class Dripping(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

    fleet = Fleet(answers=httpx.Response(200, stream=Dripping()))
    async with fleet.asking(), asyncio.timeout(5):
        for question in ("first", "second"):
            await fleet.serves(messages=conversation(question))
        await fleet.prompts.drained()
    assert len(fleet.asked) >= 1


async def test_a_server_that_was_not_reached_is_asked_when_the_prompt_comes_again() -> None:
    fleet = Fleet(answers=httpx.ConnectError("refused"))
    async with fleet.asking():
        for question in ("first", "second"):
            await fleet.serves(messages=conversation(question))
        fleet.answers = None
        await fleet.serves(messages=conversation("third"))
        assert len(fleet.asked) == 1


async def test_prompts_that_find_the_queue_full_are_asked_for_when_they_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenize_client, "MAX_WAITING", 1)
    fleet = Fleet()
    others = [SYSTEM[::-1], SYSTEM[5:]]
    for system in others:
        for question in ("first", "second"):
            fleet.computes(messages=conversation(question, system))
            fleet.director.ended(fleet.sends(messages=conversation(question, system)))
    async with fleet.asking():
        await fleet.prompts.drained()
        assert len(fleet.asked) == 1
        await fleet.serves(messages=conversation("third", others[1]))
        assert len(fleet.asked) == 2


async def test_an_error_nobody_has_thought_of_costs_a_name_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet()

    def fail(*_: object) -> int:
        raise RuntimeError("of a kind nobody has thought of")

    monkeypatch.setattr(fleet.index, "learn", fail)
    async with fleet.asking():
        for question in ("first", "second"):
            await fleet.serves(messages=conversation(question))
        monkeypatch.undo()
        for question in ("first", "second"):
            await fleet.serves(messages=conversation(question, system=SYSTEM[::-1]))
        await until(lambda: len(fleet.asked) == 2)


async def test_bodies_kept_for_asking_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_client, "MAX_KEPT_BYTES", 1000)
    fleet = Fleet()
    async with fleet.asking():
        for question in ("first", "second"):
            await fleet.serves(messages=conversation(question))
    assert fleet.asked == []
