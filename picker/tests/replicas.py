"""Replicas of the picker that report to each other through memory."""

import json
from collections.abc import Callable
from random import Random

from picker.endpoints.endpoint import Endpoint, ServerMetrics
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.peers.deltas import InvalidMessage
from picker.peers.peer_state import PeerState
from picker.peers.publisher import Publisher, prefix_snapshot
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.request_body import ParsedBody, read_body
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import AppProtocol, InferencePool, RoutingStrategy
from picker.resources.names import PoolName
from picker.scheduling.scheduler import Scheduler

POOL = PoolName("inference.networking.k8s.io", "default", "qwen")


class Clock:
    """Time does not pass until a test sets it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class ReplicaOfPicker:
    """A director with its own view of the servers."""

    def __init__(self, name: str, clock: Callable[[], float], servers: int = 3) -> None:
        self.clock = clock
        self.tracker = InFlightTracker()
        self.endpoints = [Endpoint(f"10.0.0.{number}:8000", f"qwen-{number}") for number in range(servers)]
        self.index = PrefixIndex(BLOCK_TOKENS)
        self.publisher = Publisher(clock, name)
        self.publisher.active = True
        self.director = Director(
            self.tracker, clock, Random(name), unknown_models=True, observers=[self.publisher], timer=clock
        )
        pool = InferencePool(POOL, {"app": "qwen"}, (8000,), None, AppProtocol.HTTP, RoutingStrategy.DEFAULT)
        scheduler = Scheduler(RoutingStrategy.DEFAULT, self.index, Random(name))
        self.served = ServedPool(pool, {}, self.endpoints, scheduler, self.index)
        self.director.serve([self.served], POOL)

    def pick(self, prompt: str = "hello", sequences: int = 1, model: str = "qwen") -> InFlightRequest:
        body = {"model": model, "prompt": prompt, "max_tokens": 10, "n": sequences}
        read = read_body(json.dumps(body).encode(), strict=True)
        assert isinstance(read, ParsedBody)
        picked = self.director.assign(PickRequest(None, read, None))
        assert isinstance(picked, InFlightRequest)
        return picked

    def scrape(self, number: int, running: int) -> None:
        """The server `number` reports so many running requests."""
        endpoint = self.endpoints[number]
        metrics = ServerMetrics(
            0,
            running,
            0.0,
            scraped_at_s=self.clock(),
            in_flight_at_scrape=endpoint.in_flight.requests,
        )
        self.tracker.scraped(endpoint, metrics)

    def counts(self) -> list[tuple[int, int, int]]:
        """Requests, prefill tokens and decode tokens of each endpoint."""
        return [
            (each.in_flight.requests, each.in_flight.prefill_tokens, each.in_flight.decode_tokens)
            for each in self.endpoints
        ]

    def endpoint(self, address: str, server: str) -> Endpoint | None:
        """Implements `Directory`."""
        return next((each for each in self.endpoints if (each.address, each.server) == (address, server)), None)

    def prefixes(self, pool: str) -> PrefixIndex | None:
        """Implements `Directory`."""
        return self.index if pool == str(POOL) else None


class Link:
    """What `listener` reads of `speaker`. A batch may be lost, or the subscription."""

    def __init__(self, speaker: ReplicaOfPicker, listener: ReplicaOfPicker, clock: Clock) -> None:
        self.clock = clock
        self.speaker = speaker
        self.listener = listener
        self.state = PeerState(listener.tracker, listener)
        self.up = False

    def connect(self, *, prefixes: bool = False) -> None:
        """The batch in progress must have been flushed to the other links of the speaker."""
        self.state.subscribed()
        self.up = True
        publisher = self.speaker.publisher
        self.deliver(publisher.hello())
        for part in publisher.snapshot():
            self.deliver(part)
        if prefixes:
            served = self.speaker.served
            for part in prefix_snapshot([(served.key, served.prefixes, served.endpoints)]):
                self.deliver(part)

    def deliver(self, message: bytes) -> None:
        """An invalid message ends the subscription."""
        if self.up:
            try:
                self.state.apply(message, self.clock.now_s)
            except InvalidMessage:
                self.up = False
