"""The engine's sampler: generated text, or a forced output for a request."""

from collections.abc import Sequence

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.tokenizer import Tokenizer


class ForcedOutputs:
    """Samples the tokens of requests.

    A request with a forced output generates it and then ends. Others generate the tokenizer's text up to their limit.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._outputs: dict[str, Sequence[int]] = {}

    def set(self, request_id: str, tokens: Sequence[int]) -> None:
        self._outputs[request_id] = tokens

    def discard(self, request_id: str) -> None:
        """Discards the forced output of a request that has ended."""
        self._outputs.pop(request_id, None)

    def token(self, request: EngineRequest, position: int) -> int:
        output = self._outputs.get(request.request_id)
        if output is None:
            return self._tokenizer.token(request, position)
        return output[position] if position < len(output) else self._tokenizer.end_of_sequence
