"""Metrics of the requests in flow control's queues."""

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.observability.prometheus_families import gauge
from picker.requestcontrol.flowcontrol.controller import QueueStats


class FlowControlMetrics(Collector):
    """Reads the queues when it is collected. A pool where nothing waits has no samples."""

    def __init__(self, waiting: Callable[[], Iterable[QueueStats]]) -> None:
        self._waiting = waiting

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the samples depend on the pools."""
        return ()

    def collect(self) -> Iterable[Metric]:
        waiting = [((each.pool, each.criticality.value), each) for each in self._waiting()]
        labels = ("pool", "criticality")
        yield gauge(
            "inference_gateway_held_requests",
            "Requests queued until an endpoint has capacity.",
            labels,
            [(key, each.requests) for key, each in waiting],
        )
        yield gauge(
            "inference_gateway_held_bytes",
            "Bytes of the bodies of queued requests.",
            labels,
            [(key, each.body_bytes) for key, each in waiting],
        )
