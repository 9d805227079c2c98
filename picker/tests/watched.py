"""A watched desk over a few endpoints, a clock that a test turns, and the metrics as Prometheus reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from fleet import endpoint
from gateway_objects import pool, resources
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.observability.metrics import PickerMetrics
from picker.observability.observer import WatchedDesk
from picker.observability.request_record import Course, RequestSink
from picker.requestcontrol.director import BLOCK_TOKENS, PoolDesk, ServedPool
from picker.requestcontrol.interfaces import Wanted
from picker.requestcontrol.rejection import Rejection
from picker.requestcontrol.request_body import ParsedBody
from picker.resources.inference import RoutingStrategy
from picker.resources.names import PoolName
from picker.scheduling.scheduler import Scheduler
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families


def served(name: str, endpoints: list[Endpoint], strategy: RoutingStrategy = RoutingStrategy.DEFAULT) -> ServedPool:
    """The pool NAMESPACE/NAME."""
    [each] = resources(pool(name)).pools.values()
    prefixes = PrefixIndex(BLOCK_TOKENS)
    return ServedPool(each, {}, endpoints, Scheduler(strategy, prefixes, Random(1)), prefixes)


@dataclass
class Watched:
    """Two endpoints in one pool, `a`, unless told otherwise."""

    tellers: Sequence[RequestSink] = ()
    kept: int = 10
    unknown_models: bool = True
    endpoints: list[Endpoint] = field(default_factory=lambda: [endpoint(1), endpoint(2, queue_depth=3, kv=0.25)])
    now_s: float = 0.0
    pools: list[ServedPool] = field(init=False)
    desk: WatchedDesk = field(init=False)
    inner: PoolDesk = field(init=False)

    def __post_init__(self) -> None:
        self.inner = PoolDesk(InFlightTracker(), self.clock, Random(1), unknown_models=self.unknown_models)
        self.desk = WatchedDesk(self.inner, self.clock, kept_decisions=self.kept, tellers=self.tellers)
        self.metrics = PickerMetrics(self.desk.counters, lambda: self.pools, self.clock, lambda: 0)
        self.serve(served("a", self.endpoints))

    def clock(self) -> float:
        return self.now_s

    def serve(self, *pools: ServedPool) -> None:
        self.pools = list(pools)
        self.inner.serve(pools, None)
        self.desk.forget()

    def ask(
        self,
        model: str | None = "m",
        *,
        pool: str = "a",
        subset: frozenset[str] | None = None,
        trace: str | None = None,
    ) -> Course | Rejection:
        body = ParsedBody(model, prompt=b"x" * 4000, salt=b"", prompt_tokens=1000, output_tokens=100)
        name = PoolName("inference.networking.x-k8s.io", "default", pool)
        return self.desk.assign(Wanted(str(name), body, subset, body_bytes=4030, request_id="id-1", trace=trace))

    def course(self, model: str | None = "m", *, trace: str | None = None) -> Course:
        """A request that is assigned."""
        course = self.ask(model, trace=trace)
        assert isinstance(course, Course)
        return course

    def value(self, name: str, /, **labels: str) -> float | None:
        """Of a sample of `/metrics`; None where there is none."""
        registry = CollectorRegistry()
        registry.register(self.metrics)
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None
