"""Metrics of the requests that flow control queues."""

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.observability.prometheus_families import gauge
from picker.requestcontrol.flowcontrol.controller import QueueStats


class FlowControlMetrics(Collector):
    """Reads the queues at each scrape. A pool where no request waits has no samples."""

    def __init__(self, waiting: Callable[[], Iterable[QueueStats]]) -> None:
        self._waiting = waiting

    def describe(self) -> Iterable[Metric]:
        """Empty, because the samples depend on the pools."""
        return ()

    def collect(self) -> Iterable[Metric]:
        queues = [((stats.pool, stats.criticality.value), stats) for stats in self._waiting()]
        labels = ("pool", "criticality")
        yield gauge(
            "inference_gateway_queued_requests",
            "Requests queued until an endpoint has capacity.",
            labels,
            [(key, stats.requests) for key, stats in queues],
        )
        yield gauge(
            "inference_gateway_queued_bytes",
            "Bytes of the bodies of queued requests.",
            labels,
            [(key, stats.body_bytes) for key, stats in queues],
        )
