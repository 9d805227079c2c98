"""DEFAULT: where a request takes and costs the least time."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.strategies.load import pressure, requests_there, slowness, work_ahead
from picker.scheduling.strategies.lora import LoraAffinity

SLOWED_TOKENS = 56.0
"""What a request costs each running sequence in the steps that they share, in prompt tokens."""

INTERRUPTED_SHARE = 0.1
"""What a prompt costs each running sequence that it interrupts, as a share of the prompt: a decoding client notices the
pause less than a waiting one, who has nothing yet."""


class LeastWork:
    """Cost = (work ahead of the first token + what the request costs those that run there) x pressure x slowness^2.

    The sum is in prompt tokens. What the prefix cache holds of the prompt costs nothing, so a cached prefix attracts by
    as much as it saves. Slowness counts twice because it comes twice: until the first token, and in all after it.
    """

    def __init__(self) -> None:
        self._lora = LoraAffinity()

    def notable(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        return ()

    def costs(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        cached_tokens: Sequence[int],
        notable: Sequence[Endpoint] | None = (),
    ) -> Sequence[float]:
        fresh = [max(0, request.prompt_tokens - cached) for cached in cached_tokens]
        return self.costs_of(request, endpoints, fresh, [requests_there(endpoint) for endpoint in endpoints])

    def costs_of(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        fresh_tokens: Sequence[float],
        running: Sequence[int],
    ) -> Sequence[float]:
        """The same by the prompt tokens that each endpoint has to compute, and the requests there."""
        costs = [
            work_ahead(endpoint, count, fresh) + count * (SLOWED_TOKENS + INTERRUPTED_SHARE * fresh)
            for endpoint, fresh, count in zip(endpoints, fresh_tokens, running, strict=True)
        ]
        adapters = self._lora.tokens(request.model, endpoints)
        if adapters is not None:
            costs = [cost + adapter for cost, adapter in zip(costs, adapters, strict=True)]
        costs = [cost * pressure(endpoint) for cost, endpoint in zip(costs, endpoints, strict=True)]
        slow = slowness(endpoints)
        return costs if slow is None else [cost * each * each for cost, each in zip(costs, slow, strict=True)]
