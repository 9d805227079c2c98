"""Metrics of what flow control holds."""

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.observability.observer import pool_label
from picker.observability.prometheus_families import gauge
from picker.requestcontrol.flowcontrol.controller import QueueStats


class FlowControlMetrics(Collector):
    """Read when asked for. A pool where nothing waits has no samples."""

    def __init__(self, waiting: Callable[[], Iterable[QueueStats]]) -> None:
        self._waiting = waiting

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: what there is depends on the pools."""
        return ()

    def collect(self) -> Iterable[Metric]:
        waiting = [((pool_label(each.pool), each.criticality.value), each) for each in self._waiting()]
        labels = ("pool", "criticality")
        yield gauge(
            "inference_gateway_held_requests",
            "Held until an endpoint has room.",
            labels,
            [(key, each.requests) for key, each in waiting],
        )
        yield gauge(
            "inference_gateway_held_bytes",
            "Of the bodies of the requests that are held.",
            labels,
            [(key, each.body_bytes) for key, each in waiting],
        )
