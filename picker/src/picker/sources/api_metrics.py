"""Metrics of following the API server: failures by kind, and the age of each copy."""

from collections.abc import Iterator
from typing import Protocol
from weakref import WeakSet

from prometheus_client import Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PREFIX = "inference_gateway_"


class Copied(Protocol):
    """A copy of the objects of one kind."""

    @property
    def kind_name(self) -> str: ...

    @property
    def age_s(self) -> float | None:
        """Seconds since the API server confirmed the copy; None before its first list."""
        ...


class ApiMetrics(Collector):
    """Counts failures, and reports the age of the oldest copy of each kind."""

    def __init__(self) -> None:
        self._errors = Counter(
            PREFIX + "api_errors",
            "Answers of the API server that could not be used, objects that could not be read or written",
            ("resource", "reason"),
            registry=None,
        )
        self._copies: WeakSet[Copied] = WeakSet()

    def follow(self, copy: Copied) -> None:
        """Report the age of `copy` as long as it lives."""
        self._copies.add(copy)

    def failed(self, resource: str, reason: str) -> None:
        """`resource` and `reason` come from the code, never from an object."""
        self._errors.labels(resource, reason).inc()

    def error_count(self, resource: str) -> float:
        """Failures of a kind so far, of all reasons."""
        samples = (sample for metric in self._errors.collect() for sample in metric.samples)
        return sum(
            each.value for each in samples if each.name.endswith("_total") and each.labels["resource"] == resource
        )

    def collect(self) -> Iterator[Metric]:
        yield from self._errors.collect()
        ages: dict[str, float] = {}
        for copy in self._copies:
            if copy.age_s is not None:
                ages[copy.kind_name] = max(ages.get(copy.kind_name, 0.0), copy.age_s)
        family = GaugeMetricFamily(
            PREFIX + "api_cache_age_seconds",
            "Since the API server last confirmed the oldest copy of a kind",
            labels=("resource",),
        )
        for name in sorted(ages):
            family.add_metric((name,), ages[name])
        yield family


API_METRICS = ApiMetrics()
"""Of this process. Register it where the process shows its metrics."""
