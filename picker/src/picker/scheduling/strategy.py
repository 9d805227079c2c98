"""What a strategy is."""

from collections.abc import Sequence
from typing import Protocol

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest


class Strategy(Protocol):
    """One way to choose among endpoints. May remember its own choices, nothing else."""

    def required_candidates(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint]
    ) -> Sequence[Endpoint] | None:
        """Endpoints of the whole pool that must be looked at when there are too many to look at all; None: all must."""
        ...

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        required_candidates: Sequence[Endpoint] | None,
        now_s: float,
    ) -> Sequence[float]:
        """What `request` would cost on each of `endpoints`; the lowest is best, equal ones are drawn by lot.

        `cached_tokens[i]` prompt tokens are thought to be in the prefix cache of `endpoints[i]`. `endpoints` is never
        empty; `required_candidates` is what the method of that name said; `now_s` is on the clock of the scrapes.
        """
        ...
