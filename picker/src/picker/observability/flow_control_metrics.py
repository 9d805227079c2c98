"""Metrics of the requests that flow control queues."""

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.observability.priority_labels import PriorityLabels, criticality_name
from picker.observability.prometheus_families import gauge
from picker.requestcontrol.flowcontrol.controller import QueueStats


class FlowControlMetrics(Collector):
    """Reads the queues at each scrape. A priority of which no request waits has no samples."""

    def __init__(self, waiting: Callable[[], Iterable[QueueStats]]) -> None:
        self._waiting = waiting
        self._priorities = PriorityLabels()

    def describe(self) -> Iterable[Metric]:
        """Empty, because the samples depend on the pools."""
        return ()

    def collect(self) -> Iterable[Metric]:
        requests: Counter[tuple[str, str, str]] = Counter()
        body_bytes: Counter[tuple[str, str, str]] = Counter()
        for stats in self._waiting():
            key = stats.pool, criticality_name(stats.priority), self._priorities.of(stats.priority)
            requests[key] += stats.requests
            body_bytes[key] += stats.body_bytes
        labels = ("pool", "criticality", "priority")
        yield gauge(
            "inference_gateway_queued_requests",
            "Requests queued until an endpoint has capacity.",
            labels,
            requests.items(),
        )
        yield gauge(
            "inference_gateway_queued_bytes", "Bytes of the bodies of queued requests.", labels, body_bytes.items()
        )
