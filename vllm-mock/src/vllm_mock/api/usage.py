"""Token counts of responses."""

from msgspec import UNSET

from vllm_mock.api.schemas import PromptTokensDetails, StreamedPromptTokensDetails, StreamedUsage, Usage
from vllm_mock.generation.generation import Generation
from vllm_mock.generation.replica import Replica


def usage(replica: Replica, generation: Generation) -> Usage:
    """Usage of a whole response.

    Cached tokens are those of the last choice, as in vLLM, and appear only with `prompt_tokens_details`.
    """
    prompt, generated = generation.prepared.prompt_tokens, generation.generated
    details = None
    if replica.options.prompt_tokens_details:
        details = PromptTokensDetails(generation.choices[-1].cached_tokens)
    return Usage(prompt, prompt + generated, generated, details)


def streamed_usage(prompt_tokens: int, generated: int, cached_tokens: int | None = None) -> StreamedUsage:
    details = UNSET if cached_tokens is None else StreamedPromptTokensDetails(cached_tokens)
    return StreamedUsage(prompt_tokens, prompt_tokens + generated, generated, details)
