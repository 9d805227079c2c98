"""Metrics of the exchange with the other replicas of the picker."""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from picker.endpoints.in_flight import InFlightTracker
from picker.observability.prometheus_families import gauge


class Peers(Protocol):
    """The subscriptions to all peers."""

    tracker: InFlightTracker
    received_bytes: int
    dropped: int

    @property
    def connected(self) -> int: ...


class PeerMetrics(Collector):
    """Reads the subscriptions when it is collected."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        peers = self._peers
        yield gauge(
            "inference_gateway_peers",
            "Other replicas of the picker whose requests this one counts.",
            (),
            [((), peers.connected)],
        )
        yield gauge(
            "inference_gateway_peers_in_flight_requests",
            "Sequences in flight from the other replicas.",
            (),
            [((), peers.tracker.peers.requests)],
        )
        for name, documentation, value in (
            ("received_bytes", "Of messages from the other replicas.", peers.received_bytes),
            ("dropped", "Times that a replica with requests in flight was silent for too long.", peers.dropped),
        ):
            yield CounterMetricFamily(f"inference_gateway_peers_{name}", documentation, value=value)
