"""Compares the accuracy of two prefix indexes: one that estimates the servers' caches, and one that uses KV events.

Mock engines in virtual time publish the events that they would send over ZeroMQ. The pickers run the real code from a
request's JSON to its pick. For each request the predicted cached share of its prompt is compared with the engine's
(`vllm:prefix_cache_hits_total` over `vllm:prefix_cache_queries_total`).
"""

import asyncio
import heapq
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from random import Random
from statistics import fmean, quantiles
from typing import Literal

import httpx
from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.endpoints.prefix_cache.kv_event_index import KvEventIndex
from picker.endpoints.prefix_cache.kv_events.messages import read_batch
from picker.endpoints.prefix_cache.kv_events.reported_blocks import ReportedBlocks
from picker.logs import configure_logging
from picker.rejection import Rejection
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import read_body
from picker.requestcontrol.served_pool import ServedPool
from picker.requestcontrol.tokenize_client import TokenizeClient
from picker.resources.inference import AppProtocol, InferencePool, RoutingStrategy
from picker.resources.names import PoolName
from picker.scheduling.scheduler import Scheduler
from rich.console import Console
from rich.table import Table
from vllm_mock.engine.core import Engine
from vllm_mock.engine.messages import EngineConfig, EngineRequest, NewTokens
from vllm_mock.engine.speed import CARDS
from vllm_mock.kv_events.log import KvEventLog
from vllm_mock.kv_events.messages import Batch, Encoding, Event, encode
from vllm_mock.tokens.english import SENTENCE
from vllm_mock.tokens.qwen import QwenTokenizer
from vllm_mock.tokens.tokenizer import Turn

SCRAPE_S = 0.2
MODEL = "qwen"
ANSWER_TOKENS = 150
PrefixSource = Literal["estimated", "reported"]
"""Estimated from the picker's own requests, or reported by KV events."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Conversations of `turns` turns with Poisson arrivals. Zipf's law draws their system prompts."""

    name: str
    prefixes: int
    prefix_words: int
    turns: int
    rate: float
    """Turns per second."""
    pause_s: float
    """Mean time between a response and the next turn."""
    requests: int
    user_words: int = 60
    server_blocks: int = CARDS["a10"].num_gpu_blocks
    """Blocks of each server's KV cache."""


WORKLOADS = (
    Workload("tenants", prefixes=150, prefix_words=1200, turns=1, rate=8.0, pause_s=0.0, requests=3000),
    Workload("many tenants", prefixes=400, prefix_words=1200, turns=1, rate=6.0, pause_s=0.0, requests=4000),
    Workload("chat", prefixes=10, prefix_words=400, turns=8, rate=8.0, pause_s=20.0, requests=1500),
)


@dataclass(slots=True)
class Outcome:
    """Measurements of a run, after its first quarter."""

    errors: list[float] = field(default_factory=list[float])
    """Absolute difference between the predicted and the actual cached share of the prompt, by request."""
    cached: float = 0.0
    """Sum of the actual cached shares."""
    ttfts_s: list[float] = field(default_factory=list[float])

    @property
    def error(self) -> float:
        return fmean(self.errors)

    @property
    def hit_ratio(self) -> float:
        return self.cached / len(self.errors)

    @property
    def ttft_s(self) -> float:
        return fmean(self.ttfts_s)

    @property
    def ttft_p90_s(self) -> float:
        return quantiles(self.ttfts_s, n=10)[-1]


def words(rng: Random, count: int) -> str:
    """A random text of `count` words."""
    return " ".join(rng.choice(SENTENCE[number % len(SENTENCE)]) for number in range(count))


class _Text:
    """Tokenizes chat messages and generates responses."""

    def __init__(self) -> None:
        self._tokenizer = QwenTokenizer()
        self._known: dict[str, list[int]] = {}

    def tokens(self, messages: Sequence[dict[str, str]]) -> list[int]:
        text = self._tokenizer.chat_prompt([Turn(message["role"], message["content"]) for message in messages])
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text)
        return self._known[text]

    def answer_of(self, request: EngineRequest) -> str:
        """Text of the model's response to `request`."""
        return self._tokenizer.decode([self._tokenizer.token(request, index) for index in range(request.max_tokens)])

    def tokenize(self, request: httpx.Request) -> httpx.Response:
        """Responds like a server's `/tokenize`."""
        body = json.loads(request.content)
        tokens = self.tokens(body["messages"])
        names = [self._tokenizer.name(token) for token in tokens]
        return httpx.Response(200, json={"count": len(tokens), "tokens": tokens, "token_strs": names})


class _Picker:
    """One replica of the picker. Replicas share no state."""

    def __init__(self, fleet: "_Fleet", source: PrefixSource, text: _Text, rng: Random) -> None:
        self.endpoints = [Endpoint(f"10.0.0.{number}:8000", f"qwen-{number}") for number in range(len(fleet.engines))]
        self.reported = ReportedBlocks()
        self.prompts = TokenizeClient(httpx.MockTransport(text.tokenize))
        prefixes: PrefixIndex
        if source == "reported":
            prefixes = KvEventIndex(BLOCK_TOKENS, self.reported, self.endpoints)
            for number, endpoint in enumerate(self.endpoints):
                self.reported.follow(endpoint)
                self.reported.restart(endpoint, empty=True)
                fleet.listeners[number].append(partial(self._on_event, endpoint))
        else:
            prefixes = PrefixIndex(BLOCK_TOKENS)
        name = PoolName("inference.networking.x-k8s.io", "default", "qwen")
        pool = InferencePool(name, {"app": "qwen"}, (8000,), None, AppProtocol.HTTP, RoutingStrategy.PREFIX_CACHE)
        scheduler = Scheduler(pool.strategy, prefixes, rng)
        self.director = Director(InFlightTracker(), lambda: fleet.now_s, rng, unknown_models=True)
        self.director.serve([ServedPool(pool, {}, self.endpoints, scheduler, prefixes)], name)
        self.director.on_repeated = self.prompts.repeated

    def _on_event(self, endpoint: Endpoint, payload: bytes) -> None:
        self.reported.apply(endpoint, read_batch(payload).events)

    def scrape(self, engines: Sequence[Engine], now_s: float) -> None:
        for endpoint, engine in zip(self.endpoints, engines, strict=True):
            scheduler = engine.scheduler
            endpoint.metrics = ServerMetrics(
                queue_depth=len(scheduler.queued),
                running=len(scheduler.running),
                kv_cache_usage=scheduler.pool.usage,
                block_size_tokens=engine.config.block_size,
                kv_blocks=engine.config.num_gpu_blocks,
                scraped_at_s=now_s,
                in_flight_at_scrape=endpoint.in_flight.requests,
            )


class _Fleet:
    """The engines and their virtual clock."""

    def __init__(self, replicas: int, server_blocks: int) -> None:
        self.now_s = 0.0
        self.listeners: list[list[Callable[[bytes], None]]] = [[] for _ in range(replicas)]
        card, tokenizer = CARDS["a10"], QwenTokenizer()
        config = EngineConfig(num_gpu_blocks=server_blocks, max_model_len=32_768)
        self.engines = [
            Engine(config, tokenizer, card.step_time, kv_events=KvEventLog(16, self._publisher(listeners)))
            for listeners in self.listeners
        ]

    def _publisher(self, listeners: list[Callable[[bytes], None]]) -> Callable[[list[Event]], None]:
        def publish(events: list[Event]) -> None:
            payload = encode(Batch(self.now_s, events), Encoding.MAP)
            for listener in listeners:
                listener(payload)

        return publish


@dataclass(slots=True)
class _Conversation:
    messages: list[dict[str, str]]
    turns_left: int


@dataclass(slots=True)
class _Running:
    """A request that its engine runs."""

    director: Director
    assigned: InFlightRequest
    conversation: _Conversation
    request: EngineRequest
    began_s: float
    counts: bool
    """Whether its first token is still to be measured."""


class _Run:
    """Runs one workload. Each request goes to a random picker."""

    def __init__(self, workload: Workload, source: PrefixSource, replicas: int, pickers: int, seed: int) -> None:
        self._workload = workload
        self._rng = Random(seed)
        self._text = _Text()
        self._fleet = _Fleet(replicas, workload.server_blocks)
        self._pickers = [
            _Picker(self._fleet, source, self._text, Random(seed + 1 + number)) for number in range(pickers)
        ]
        prefix_rng = Random(seed)
        self._prefixes = [words(prefix_rng, workload.prefix_words) for _ in range(workload.prefixes)]
        self._popularity = list(accumulate(1 / (rank + 1) for rank in range(workload.prefixes)))
        self._arrivals: list[tuple[float, int, _Conversation]] = []
        self._running: dict[str, _Running] = {}
        self._sent = 0
        self._scrape_s = 0.0
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        tokenizing = [asyncio.create_task(picker.prompts.run()) for picker in self._pickers]
        self._begin_conversations()
        while self._arrivals or self._running:
            next_s = self._arrivals[0][0] if self._arrivals else self._scrape_s
            await self._advance(min(next_s, self._scrape_s))
            while self._arrivals and self._arrivals[0][0] <= self._fleet.now_s:
                self._send(heapq.heappop(self._arrivals)[2])
        for task in tokenizing:
            task.cancel()
        await asyncio.gather(*tokenizing, return_exceptions=True)
        return self.outcome

    def _begin_conversations(self) -> None:
        workload, at_s = self._workload, 0.0
        for _ in range(workload.requests // workload.turns):
            at_s += self._rng.expovariate(workload.rate / workload.turns)
            [prefix] = self._rng.choices(self._prefixes, cum_weights=self._popularity)
            self._schedule(at_s, _Conversation([{"role": "system", "content": prefix}], workload.turns))

    def _schedule(self, at_s: float, conversation: _Conversation) -> None:
        heapq.heappush(self._arrivals, (at_s, self._rng.getrandbits(60), conversation))

    async def _advance(self, until_s: float) -> None:
        self._fleet.now_s = until_s
        for engine in self._fleet.engines:
            for at_s, tokens in engine.advance_to(until_s, every_token=False):
                self._on_tokens(tokens, at_s)
        for picker in self._pickers:
            await picker.prompts.drained()
        if until_s >= self._scrape_s:
            self._scrape_s = until_s + SCRAPE_S
            for picker in self._pickers:
                picker.scrape(self._fleet.engines, until_s)

    def _on_tokens(self, tokens: NewTokens, at_s: float) -> None:
        request = self._running[tokens.request_id]
        if request.counts:
            self._count(request, tokens.cached_tokens, at_s - request.began_s)
        request.counts = False
        if tokens.finish_reason is None:
            return
        del self._running[tokens.request_id]
        request.director.ended(request.assigned)
        conversation = request.conversation
        conversation.turns_left -= 1
        if conversation.turns_left:
            conversation.messages.append({"role": "assistant", "content": self._text.answer_of(request.request)})
            self._schedule(at_s + self._rng.expovariate(1 / self._workload.pause_s), conversation)

    def _count(self, request: _Running, cached_tokens: int, ttft_s: float) -> None:
        assigned = request.assigned
        predicted = assigned.ranking.cached_tokens / assigned.request.prompt_tokens
        cached = cached_tokens / len(request.request.prompt)
        outcome = self.outcome
        outcome.errors.append(abs(predicted - cached))
        outcome.cached += cached
        outcome.ttfts_s.append(ttft_s)

    def _send(self, conversation: _Conversation) -> None:
        workload = self._workload
        conversation.messages.append({"role": "user", "content": words(self._rng, workload.user_words)})
        body = json.dumps({"model": MODEL, "messages": conversation.messages, "max_tokens": ANSWER_TOKENS}).encode()
        read = read_body(body, strict=True)
        assert not isinstance(read, Rejection)
        picker = self._rng.choice(self._pickers)
        info = RequestInfo("/v1/chat/completions", body_bytes=len(body))
        assigned = picker.director.assign(PickRequest(None, read, None, info=info))
        assert isinstance(assigned, InFlightRequest)
        self._sent += 1
        prompt = tuple(self._text.tokens(conversation.messages))
        request = EngineRequest(request_id=str(self._sent), prompt=prompt, max_tokens=ANSWER_TOKENS, seed=self._sent)
        counts = self._sent > workload.requests // 4
        self._running[request.request_id] = _Running(
            picker.director, assigned, conversation, request, self._fleet.now_s, counts
        )
        server = picker.endpoints.index(assigned.ranking.endpoints[0])
        self._fleet.engines[server].submit(request, self._fleet.now_s)


def outcome(workload: Workload, source: PrefixSource, replicas: int = 4, pickers: int = 2, seed: int = 1) -> Outcome:
    """Runs `workload` with pickers whose prefix index uses `source`."""
    return asyncio.run(_Run(workload, source, replicas, pickers, seed).run())


def main() -> None:
    """Print the table of docs/kv-events.md."""
    table = Table("workload", "pickers", "cache known by", "error, points", "hits", "TTFT mean, s", "TTFT p90, s")
    console = Console()
    configure_logging("warning", "text")
    with console.status("") as status:
        for workload in WORKLOADS:
            for pickers in (1, 2):
                for source in ("estimated", "reported"):
                    status.update(f"{workload.name}, {pickers} pickers, {source}")
                    found = outcome(workload, source, pickers=pickers)
                    table.add_row(
                        workload.name,
                        str(pickers),
                        {"estimated": "estimate", "reported": "KV events"}[source],
                        f"{100 * found.error:.1f}",
                        f"{found.hit_ratio:.1%}",
                        f"{found.ttft_s:.3f}",
                        f"{found.ttft_p90_s:.2f}",
                    )
    console.print(table)


if __name__ == "__main__":
    main()
