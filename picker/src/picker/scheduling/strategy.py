"""The interface of a routing strategy."""

from collections.abc import Sequence
from typing import Protocol

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest


class Strategy(Protocol):
    """Computes what a request costs on each endpoint. May keep state of its own."""

    @property
    def is_sampled(self) -> bool:
        """Whether a part of the endpoints of a large pool suffices for a decision."""
        ...

    def observe(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Learn from the newest scrapes of `endpoints`, before a decision among them."""
        ...

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        now_s: float,
    ) -> Sequence[float]:
        """The cost of `request` on each of `endpoints`, which is never empty. The lowest cost is best.

        Equal costs are ordered at random. `cached_tokens[i]` is an estimate of the prompt tokens in the prefix cache
        of `endpoints[i]`. `now_s` is on the clock of the scrapes.
        """
        ...
