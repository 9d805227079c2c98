"""Metrics of flow control."""

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.observability.llm_d_families import PREFIX
from picker.observability.priority_labels import PriorityLabels, criticality_name
from picker.observability.prometheus_families import counter, gauge
from picker.requestcontrol.flowcontrol.capacity import saturation
from picker.requestcontrol.flowcontrol.controller import QueueOutcome, QueueStats
from picker.requestcontrol.served_pool import ServedPool

STAGES = ("decode", "effective")
"""llm-d's stages of a pool without separate servers for prefill."""


class FlowControlMetrics(Collector):
    """Reads the queues at each scrape. A priority of which no request waits has no samples."""

    def __init__(
        self,
        waiting: Callable[[], Iterable[QueueStats]],
        pools: Callable[[], Iterable[ServedPool]],
        clock: Callable[[], float],
    ) -> None:
        """`pools`: those whose requests may be queued. `clock`: of the scrapes of model servers."""
        self._waiting = waiting
        self._pools = pools
        self._clock = clock
        self._priorities = PriorityLabels()
        self._outcomes: Counter[tuple[str, str, str]] = Counter()
        """By pool (NAMESPACE/NAME), label of the priority, and outcome."""

    def count(self, pool: str, priority: int, outcome: QueueOutcome) -> None:
        """Counts a request that leaves flow control (`FlowControl.on_outcome`)."""
        self._outcomes[pool, self._priorities.of(priority), outcome] += 1

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
        for own_name, llm_d_name, documentation, counts in (
            ("queued_requests", "queue_size", "Requests queued until an endpoint has capacity.", requests),
            ("queued_bytes", "queue_bytes", "Bytes of the bodies of queued requests.", body_bytes),
        ):
            labels = ("pool", "criticality", "priority")
            yield gauge(f"inference_gateway_{own_name}", documentation, labels, counts.items())
            by_name = _by_name(((pool, priority), count) for (pool, _, priority), count in counts.items())
            yield gauge(
                f"{PREFIX}_flow_control_{llm_d_name}", documentation, ("inference_pool", "priority"), by_name.items()
            )
        pools = list(self._pools())
        self._keep({pool.label for pool in pools})
        outcomes = _by_name(self._outcomes.items())
        yield counter(
            f"{PREFIX}_flow_control_requests_total",
            "Requests that flow control scheduled, queued or not, and those that it rejected, by outcome.",
            ("inference_pool", "priority", "outcome"),
            outcomes.items(),
        )
        now_s = self._clock()
        yield gauge(
            f"{PREFIX}_flow_control_pool_saturation",
            "How near the pool is to where requests of priority 0 are queued, which is 1.",
            ("inference_pool", "stage"),
            [((_name(pool.label), stage), saturation(pool.endpoints, now_s)) for pool in pools for stage in STAGES],
        )

    def _keep(self, pools: set[str]) -> None:
        for key in [key for key in self._outcomes if key[0] not in pools]:
            del self._outcomes[key]


def _by_name(counts: Iterable[tuple[tuple[str, ...], int]]) -> Counter[tuple[str, ...]]:
    """`counts` with the pool's name in place of NAMESPACE/NAME: llm-d names pools without their namespace."""
    found: Counter[tuple[str, ...]] = Counter()
    for (pool, *labels), count in counts:
        found[_name(pool), *labels] += count
    return found


def _name(label: str) -> str:
    return label.partition("/")[2]
