"""A director with observers over a few endpoints, a clock that tests set, and the metrics as Prometheus reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from fleet import endpoint
from gateway_objects import pool, resources
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.observability.decisions import Decision, newest
from picker.observability.metrics import PickerMetrics
from picker.observability.recent_decisions import RecentDecisions
from picker.observability.request_metrics import RequestMetrics
from picker.rejection import Rejection
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest, RequestInfo
from picker.requestcontrol.request_body import ParsedBody
from picker.requestcontrol.request_observer import RequestObserver
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import RoutingStrategy
from picker.resources.names import PoolName
from picker.scheduling.latency_slo import LatencySlo
from picker.scheduling.scheduler import Scheduler
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families


def served(name: str, endpoints: list[Endpoint], strategy: RoutingStrategy = RoutingStrategy.DEFAULT) -> ServedPool:
    """Returns the pool `default/NAME`."""
    [inference_pool] = resources(pool(name)).pools.values()
    prefixes = PrefixIndex(BLOCK_TOKENS)
    return ServedPool(inference_pool, {}, endpoints, Scheduler(strategy, prefixes, Random(1)), prefixes)


@dataclass
class Watched:
    """A director with observers over two endpoints in one pool, `a`, by default."""

    observers: Sequence[RequestObserver] = ()
    """In addition to the metrics and the recent decisions."""
    kept: int = 10
    unknown_models: bool = True
    endpoints: list[Endpoint] = field(default_factory=lambda: [endpoint(1), endpoint(2, queue_depth=3, kv=0.25)])
    now_s: float = 0.0
    legacy: bool = True
    pools: list[ServedPool] = field(init=False)
    director: Director = field(init=False)

    def __post_init__(self) -> None:
        self.requests = RequestMetrics()
        self.decisions = RecentDecisions(self.kept)
        self.tracker = InFlightTracker()
        self.director = Director(
            self.tracker,
            self.clock,
            Random(1),
            unknown_models=self.unknown_models,
            observers=[self.requests, *([self.decisions] if self.kept else []), *self.observers],
            timer=self.clock,
        )
        self.metrics = PickerMetrics(
            self.requests.counters, lambda: self.pools, self.clock, lambda: 0, legacy=self.legacy
        )
        self.serve(served("a", self.endpoints))

    def clock(self) -> float:
        return self.now_s

    def serve(self, *pools: ServedPool) -> None:
        self.pools = list(pools)
        self.director.serve(pools, None)
        self.requests.keep(pools)

    def assign(
        self,
        model: str | None = "m",
        *,
        pool: str = "a",
        subset: frozenset[str] | None = None,
        trace: str | None = None,
        slo: LatencySlo | None = None,
    ) -> InFlightRequest | Rejection:
        body = ParsedBody(model, prompt=b"x" * 4000, salt=b"", prompt_tokens=1000, output_tokens=100)
        name = PoolName("inference.networking.x-k8s.io", "default", pool)
        info = RequestInfo(request_id="id-1", trace=trace, body_bytes=4030)
        return self.director.assign(PickRequest(str(name), body, subset, info=info, slo=slo))

    def scheduled(self, model: str | None = "m", *, pool: str = "a", trace: str | None = None) -> InFlightRequest:
        """Returns a request that an endpoint is assigned to."""
        request = self.assign(model, pool=pool, trace=trace)
        assert isinstance(request, InFlightRequest)
        return request

    def respond(self, request: InFlightRequest, status: int, served_by: str | None = None) -> None:
        """Sends the response headers."""
        self.director.response_started(request, served_by, status)

    def end(self, request: InFlightRequest) -> None:
        self.director.ended(request)

    def newest(self) -> list[Decision]:
        """The kept decisions as `/decisions` shows them."""
        return list(newest(self.decisions, self.now_s, limit=10_000, request_id=None, pool=None))

    def value(self, name: str, /, **labels: str) -> float | None:
        """The value of a sample of `/metrics`; None if it does not exist."""
        registry = CollectorRegistry()
        registry.register(self.metrics)
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None
