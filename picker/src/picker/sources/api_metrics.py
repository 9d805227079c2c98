"""Metrics of reading from the API server: failures by kind, and the age of the informers' caches."""

from collections.abc import Iterator
from typing import Protocol
from weakref import WeakSet

from prometheus_client import Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PREFIX = "inference_gateway_"


class Aged(Protocol):
    """An informer's cache of the objects of one kind."""

    @property
    def kind_name(self) -> str: ...

    @property
    def age_s(self) -> float | None:
        """Seconds since the API server confirmed the cache. None before its first list."""
        ...


class ApiMetrics(Collector):
    """Counts failures, and reports the age of the oldest cache of each kind."""

    def __init__(self) -> None:
        self._errors = Counter(
            PREFIX + "api_errors",
            "Unusable responses of the API server, and objects that could not be read or written",
            ("resource", "reason"),
            registry=None,
        )
        self._informers: WeakSet[Aged] = WeakSet()

    def follow(self, informer: Aged) -> None:
        """Report the age of `informer` as long as it exists."""
        self._informers.add(informer)

    def failed(self, resource: str, reason: str) -> None:
        """`resource` and `reason` come from the code, never from an object."""
        self._errors.labels(resource, reason).inc()

    def error_count(self, resource: str) -> float:
        """Failures of a kind so far, for all reasons."""
        samples = (sample for metric in self._errors.collect() for sample in metric.samples)
        return sum(
            sample.value
            for sample in samples
            if sample.name.endswith("_total") and sample.labels["resource"] == resource
        )

    def collect(self) -> Iterator[Metric]:
        yield from self._errors.collect()
        ages: dict[str, float] = {}
        for informer in self._informers:
            if informer.age_s is not None:
                ages[informer.kind_name] = max(ages.get(informer.kind_name, 0.0), informer.age_s)
        family = GaugeMetricFamily(
            PREFIX + "api_cache_age_seconds",
            "Seconds since the API server last confirmed the oldest cache of a kind",
            labels=("resource",),
        )
        for name in sorted(ages):
            family.add_metric((name,), ages[name])
        yield family


API_METRICS = ApiMetrics()
"""The instance of this process. Register it with the registry of the process."""
