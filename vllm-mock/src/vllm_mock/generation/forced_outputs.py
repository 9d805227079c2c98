"""The model's words: what the tokenizer makes up, or a text that was laid down for a request."""

from collections.abc import Sequence

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.tokens.tokenizer import Tokenizer


class Scripts:
    """The engine's sampler. Where a request has a script it says that and then ends; others say what the tokenizer
    makes up, until their limit."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._laid_down: dict[str, Sequence[int]] = {}

    def lay_down(self, request_id: str, tokens: Sequence[int]) -> None:
        self._laid_down[request_id] = tokens

    def forget(self, request_id: str) -> None:
        """The request is over."""
        self._laid_down.pop(request_id, None)

    def token(self, request: EngineRequest, position: int) -> int:
        script = self._laid_down.get(request.request_id)
        if script is None:
            return self._tokenizer.token(request, position)
        return script[position] if position < len(script) else self._tokenizer.end_of_sequence
