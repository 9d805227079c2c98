"""DEFAULT: the least loaded endpoint."""

from collections.abc import Sequence

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest
from picker.scheduling.strategies.load import pressure, requests_there, tokens_there


class LeastLoad:
    """Cost = tokens held there with this request x batch size with it x pressure.

    The tokens fill the KV cache and the batch slows every step, so the product grows with both and needs no weights
    (LMETRIC, arXiv 2603.15202, multiplies new prefill tokens by batch size for the same reason). Prompt tokens that the
    prefix cache holds are not counted: they cost neither prefill nor new blocks.
    """

    def costs(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], cached_tokens: Sequence[int]
    ) -> Sequence[float]:
        own = request.prompt_tokens + request.output_tokens
        return [
            (tokens_there(endpoint, own) + own - cached) * (requests_there(endpoint) + 1) * pressure(endpoint)
            for endpoint, cached in zip(endpoints, cached_tokens, strict=True)
        ]
