"""Strategies of ordinary load balancers, as a comparison for DEFAULT."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest


class RandomChoice:
    """Any endpoint: all costs are equal, and the scheduler orders equal costs at random."""

    is_sampled = True

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Learn nothing."""

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        return [0.0] * len(endpoints)


class RoundRobin:
    """Each endpoint in turn."""

    is_sampled = False

    def __init__(self) -> None:
        self._turn = 0

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Learn nothing."""

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        count = len(endpoints)
        turn = self._turn % count
        self._turn = turn + 1
        return [float((index - turn) % count) for index in range(count)]


class LeastRequest:
    """The endpoint with the fewest requests in flight from this picker."""

    is_sampled = False

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Learn nothing."""

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        return [float(endpoint.in_flight.requests) for endpoint in endpoints]
