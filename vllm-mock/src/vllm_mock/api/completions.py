"""Responses of /v1/completions, whole or in chunks."""

from collections.abc import AsyncIterator

from vllm_mock.api.logprobs import completion_logprobs, prompt_logprobs
from vllm_mock.api.responses import DONE, event
from vllm_mock.api.schemas import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
)
from vllm_mock.api.usage import streamed_usage, usage
from vllm_mock.generation.generation import Choice, Generation, Progress
from vllm_mock.generation.replica import Prompt, Replica
from vllm_mock.generation.request_body import CompletionBody


def whole(replica: Replica, body: CompletionBody, generation: Generation) -> Completion:
    """The response body of a finished generation."""
    prepared = generation.prepared
    choices = [
        _choice(replica, body, prepared.prompt_of(index), index, choice)
        for index, choice in enumerate(generation.choices)
    ]
    return Completion(
        prepared.id,
        "text_completion",
        prepared.created,
        prepared.model,
        choices,
        None,
        replica.fingerprint,
        usage(replica, generation),
    )


async def chunks(replica: Replica, body: CompletionBody, generation: Generation) -> AsyncIterator[bytes]:
    """The events of a stream. Raises ApiError if the engine fails."""
    prepared = generation.prepared
    lengths = [0] * len(generation.choices)
    async for progress in generation.steps():
        choice = _chunk_choice(replica, body, generation, progress, lengths[progress.choice])
        lengths[progress.choice] += len(choice.text)
        chunk = CompletionChunk(prepared.id, "text_completion", prepared.created, prepared.model, [choice])
        if body.continuous_usage:
            prompt = len(prepared.prompt_of(progress.choice).tokens)
            chunk.usage = streamed_usage(prompt, progress.generated)
        if progress.finish_reason is not None and not body.include_usage:
            chunk.system_fingerprint = replica.fingerprint
        yield event(chunk)
    if body.include_usage:
        cached = generation.choices[0].cached_tokens if replica.options.prompt_tokens_details else None
        final_usage = streamed_usage(prepared.prompt_tokens, generation.generated, cached)
        yield event(
            CompletionChunk(
                prepared.id, "text_completion", prepared.created, prepared.model, [], final_usage, replica.fingerprint
            )
        )
    yield DONE


def _choice(replica: Replica, body: CompletionBody, prompt: Prompt, index: int, choice: Choice) -> CompletionChoice:
    tokens, pieces, text = list(choice.tokens), list(choice.pieces), choice.text.text
    echoed = 0
    if body.echo:
        echoed = len(prompt.tokens)
        shown = _prompt_text(replica, body, prompt)
        if body.max_tokens == 0:
            tokens, pieces, text = [], [], ""
        tokens, text = [*prompt.tokens, *tokens], shown + text
        pieces = [*_pieces(replica, prompt), *pieces]
    count = body.prompt_logprob_count
    return CompletionChoice(
        index,
        text,
        _logprobs(replica, body, tokens, pieces, 0, echoed),
        choice.finish_reason,
        choice.stop_reason,
        list(choice.tokens) if body.return_token_ids else None,
        prompt_logprobs(replica.tokenizer, prompt.tokens, count) if count is not None else None,
        list(prompt.tokens) if body.return_token_ids else None,
    )


def _chunk_choice(
    replica: Replica, body: CompletionBody, generation: Generation, progress: Progress, shown: int
) -> CompletionChunkChoice:
    choice = generation.choices[progress.choice]
    tokens, pieces, text = [progress.token], [choice.pieces[progress.generated - 1]], progress.text
    first = progress.generated == 1
    prompt = generation.prepared.prompt_of(progress.choice)
    echoed = 0
    if body.echo and first:
        echoed = len(prompt.tokens)
        if body.max_tokens == 0:
            tokens, pieces, text = [], [], ""
        tokens, text = [*prompt.tokens, *tokens], _prompt_text(replica, body, prompt) + text
        pieces = [*_pieces(replica, prompt), *pieces]
    return CompletionChunkChoice(
        progress.choice,
        text,
        _logprobs(replica, body, tokens, pieces, shown, echoed),
        progress.finish_reason,
        progress.stop_reason,
        list(prompt.tokens) if first and (body.echo or body.return_token_ids) else None,
        [progress.token] if body.return_token_ids else None,
    )


def _logprobs(
    replica: Replica, body: CompletionBody, tokens: list[int], pieces: list[str], offset: int, echoed: int
) -> CompletionLogprobs | None:
    if body.logprobs is None:
        return None
    return completion_logprobs(replica.tokenizer, tokens, pieces, max(0, body.logprobs), offset, echoed)


def _prompt_text(replica: Replica, body: CompletionBody, prompt: Prompt) -> str:
    if body.return_token_ids:
        return ""
    return replica.tokenizer.decode(prompt.tokens) if prompt.text is None else prompt.text


def _pieces(replica: Replica, prompt: Prompt) -> list[str]:
    return [replica.tokenizer.decode([token]) for token in prompt.tokens]
