"""A picker without sockets, used by several kinds of proxies while servers, pool members and the clock change."""

from collections.abc import Callable, Mapping
from random import Random

from fleet import endpoint, scrape
from gateway_objects import pool, resources
from picker.endpoints.endpoint import ServerMetrics
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.stream import PROCESS, process
from picker.grpc_server.call import Call, Method
from picker.grpc_server.calls import CallDispatcher
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.health import Health
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.headers import HeaderBlockCache
from picker.protocol import HEALTH_SERVICES
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.flowcontrol.controller import FlowControl
from picker.requestcontrol.flowcontrol.queue import Bounds
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import Criticality, InferenceModel, RoutingStrategy
from picker.scheduling.scheduler import Scheduler

from fuzz.proxy import Proxy

MODEL = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {name: asked}
spec: {modelName: asked, criticality: %s, poolRef: {name: a}, targetModels: [{name: served, weight: 1}]}
"""

STEPS = 400
"""Steps of one run: half a second of work, and enough for queues to fill."""

SILENCE_LIMIT_S = 600.0


class World:
    """All parts of a picker from HTTP/2 to the in-flight tracker, with a clock of their own."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.now_s = 100.0
        self.streams = self.messages = 0
        self.tracker = InFlightTracker()
        self._director = Director(self.tracker, self._clock, Random(rng.random()), unknown_models=rng.random() < 0.5)
        self._endpoints = [endpoint(number) for number in range(rng.randrange(4))]
        self._members = len(self._endpoints)
        self._callbacks: list[Callable[[], None]] = []
        self.flow = FlowControl(self._director, self._clock, self._callbacks.append, Bounds(8, 1 << 18), 60.0)
        self.tracker.on_freed = self.flow.freed
        self._serve()
        self._health = Health(HEALTH_SERVICES)
        self._deadlines: Deadlines[Call] = Deadlines()
        self.load = ConnectionLimits(max_calls=60, max_held_bytes=1 << 18, max_calls_per_connection=40)
        self._header_cache = HeaderBlockCache()
        queue = self.flow if rng.random() < 0.7 else None
        self._methods: Mapping[str, Method] = {
            PROCESS: process(lambda: Exchange(self._director, Limits(max_body_bytes=30_000), queue=queue)),
            **self._health.methods,
        }
        self._proxies = [self._new_proxy() for _ in range(rng.randrange(1, 4))]

    def run(self, steps: int = STEPS) -> None:
        """Uses the picker, and checks it after each step and at the end. Raises AssertionError."""
        for _ in range(steps):
            self._step()
            self._check()
        for proxy in self._proxies:
            proxy.lose()
            self._count(proxy)
        self._run_callbacks()
        self.flow.tick()
        self._check_empty()

    def _clock(self) -> float:
        return self.now_s

    def _new_proxy(self) -> Proxy:
        def create_calls(connection: Connection) -> CallDispatcher:
            return CallDispatcher(connection, self._methods, self._deadlines, lambda: None, self.load)

        return Proxy(self._rng, create_calls, Connection(self._header_cache))

    def _step(self) -> None:
        rng = self._rng
        chance = rng.random()
        if chance < 0.85:
            number = rng.randrange(len(self._proxies))
            proxy = self._proxies[number]
            proxy.step(self.now_s)
            if proxy.lost or rng.random() < 0.003:
                self._replace(number)
        elif chance < 0.93:
            self._pass_time(rng.choice((0.01, 0.2, 2.0, 2.0, 11.0, 70.0, 700.0)))
        elif chance < 0.97:
            self._server_changes()
        elif chance < 0.98:
            self._members_change()
        elif chance < 0.985:
            rng.choice(self._proxies).calls.drain()
        elif chance < 0.99:
            self._serve()
        else:
            self._health.ready(rng.random() < 0.5)
        if rng.random() < 0.5:
            self._run_callbacks()

    def _replace(self, number: int) -> None:
        proxy = self._proxies[number]
        if not proxy.lost:
            proxy.lose()
        self._count(proxy)
        self._proxies[number] = self._new_proxy()

    def _count(self, proxy: Proxy) -> None:
        assert not proxy.connection.closed or proxy.calls.draining or not proxy.conforming, (
            "a conforming proxy was disconnected"
        )
        self.streams += proxy.streams
        self.messages += proxy.messages

    def _pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        for call in self._deadlines.pop_due(self.now_s):
            call.context.expire(call, self.now_s)
        for proxy in self._proxies:
            proxy.calls.end_silent(self.now_s, SILENCE_LIMIT_S)
        self.flow.tick()

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks[:] = self._callbacks[:], []
        for callback in callbacks:
            callback()

    def _server_changes(self) -> None:
        rng = self._rng
        if not self._endpoints:
            return
        chosen = rng.choice(self._endpoints)
        if rng.random() < 0.2:
            # The server has restarted: its counters begin at 0.
            self.tracker.scraped(chosen, ServerMetrics(0, 0, 0.0, scraped_at_s=self.now_s))
        elif rng.random() < 0.2:
            chosen.unreachable_since_s = self.now_s if chosen.unreachable_since_s is None else None
        else:
            scrape(
                self.tracker,
                chosen,
                self.now_s,
                first_tokens=rng.randrange(4),
                seconds=rng.random(),
                prompt_tokens=rng.choice((0, 50, 10_000)),
                others=rng.choice((0, 0, 200)),
                queue_depth=rng.choice((0, 0, 50)),
            )

    def _members_change(self) -> None:
        if self._endpoints and self._rng.random() < 0.5:
            del self._endpoints[self._rng.randrange(len(self._endpoints))]
        else:
            self._members += 1
            self._endpoints.append(endpoint(self._members % 250))

    def _serve(self) -> None:
        rng = self._rng
        [served_pool] = resources(pool("a")).pools.values()
        prefixes = PrefixIndex(BLOCK_TOKENS)
        scheduler = Scheduler(rng.choice(list(RoutingStrategy)), prefixes, Random(rng.random()))
        models: dict[str, InferenceModel] = {}
        if rng.random() < 0.7:
            [declared] = resources(MODEL % rng.choice(list(Criticality))).models
            models["asked"] = declared
        served = ServedPool(served_pool, models, self._endpoints, scheduler, prefixes)
        self._director.serve([served], served.pool.name if rng.random() < 0.9 else None)

    def _check(self) -> None:
        held_bytes = [sum(call.reader.held_bytes for call in proxy.calls.open) for proxy in self._proxies]
        assert [proxy.calls.held_bytes for proxy in self._proxies] == held_bytes
        assert self.load.held_bytes == sum(held_bytes) <= self.load.max_held_bytes + (1 << 15)
        assert self.load.calls == sum(len(proxy.calls) for proxy in self._proxies) <= self.load.max_calls
        total = self.tracker.total
        assert 0 <= total.requests <= self.load.calls
        assert total.prefill_tokens >= 0 <= total.decode_tokens

    def _check_empty(self) -> None:
        total = self.tracker.total
        assert (total.requests, total.prefill_tokens, total.decode_tokens) == (0, 0, 0)
        assert all(member.in_flight.requests == 0 and not member.in_flight.models for member in self._endpoints)
        assert sum(waiting.requests + waiting.body_bytes for waiting in self.flow.waiting()) == 0
        assert (self.load.calls, self.load.held_bytes, len(self._deadlines)) == (0, 0, 0)
        assert self._health.watches == 0
