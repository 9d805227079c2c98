"""Log probabilities in vLLM's formats. The numbers are invented: equal for equal texts, and lower for higher ranks."""

from collections.abc import Sequence

from vllm_mock.api.schemas import (
    ChatLogprobs,
    ChosenLogprob,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
)
from vllm_mock.tokens.tokenizer import Tokenizer, draw

_BEST = -0.25
"""Log probability of the chosen token."""
_STEP = -0.75
"""Difference between one rank and the next."""


def _logprob(token: int, position: int, rank: int) -> float:
    return _BEST + _STEP * (rank - 1) - draw(token, position, 1000) / 10_000


def _others(tokenizer: Tokenizer, token: int, position: int, count: int) -> list[int]:
    """`count` alternatives to `token` at `position`."""
    known = min(tokenizer.vocabulary, 50_000)
    return [(token + 1 + draw(token + rank, position, known - 1)) % known for rank in range(count)]


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], pieces: Sequence[str], count: int, offset: int, prompt_tokens: int = 0
) -> CompletionLogprobs:
    """Log probabilities for /v1/completions.

    The first `prompt_tokens` of `tokens` belong to an echoed prompt. `offset` is the position in the text, in
    characters, at which the first token begins.
    """
    offsets: list[int] = []
    chosen: list[float | None] = []
    best: list[dict[str, float] | None] = []
    for position, (token, piece) in enumerate(zip(tokens, pieces, strict=True)):
        offsets.append(offset)
        offset += len(piece)
        if prompt_tokens and position == 0:
            chosen.append(None)
            best.append(None)
            continue
        of_prompt = position < prompt_tokens
        rank = count + 1 if of_prompt else 1
        value = _logprob(token, position, rank)
        others = _others(tokenizer, token, position, count if of_prompt else count - 1)
        first = 1 if of_prompt else 2
        ranked = {_decoded(tokenizer, other): _logprob(other, position, first + at) for at, other in enumerate(others)}
        chosen.append(value)
        best.append({piece: value, **{text: other for text, other in ranked.items() if text != piece}})
    return CompletionLogprobs(offsets, chosen, list(pieces), best)


def chat_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], pieces: Sequence[str], count: int, start: int = 0
) -> ChatLogprobs:
    """Log probabilities for /v1/chat/completions. `start` is the position of the first token in the answer."""
    content: list[ChosenLogprob] = []
    for at, (token, piece) in enumerate(zip(tokens, pieces, strict=True)):
        position = start + at
        value = _logprob(token, position, 1)
        own = TokenLogprob(piece, value, list(piece.encode()))
        others = [
            TokenLogprob(text, _logprob(other, position, 2 + rank), list(text.encode()))
            for rank, other in enumerate(_others(tokenizer, token, position, count - 1))
            for text in (_decoded(tokenizer, other),)
        ]
        content.append(ChosenLogprob(own.token, own.logprob, own.bytes, [own, *others] if count else []))
    return ChatLogprobs(content)


def prompt_logprobs(tokenizer: Tokenizer, tokens: Sequence[int], count: int) -> PromptLogprobs:
    """Log probabilities of every prompt token except the first, each with `count` more likely alternatives."""
    logprobs: PromptLogprobs = [None]
    for position, token in enumerate(tokens[1:], start=1):
        rank = count + 1
        entries = {str(token): PromptLogprob(_logprob(token, position, rank), rank, _decoded(tokenizer, token))}
        for at, other in enumerate(_others(tokenizer, token, position, count), start=1):
            entries.setdefault(str(other), PromptLogprob(_logprob(other, position, at), at, _decoded(tokenizer, other)))
        logprobs.append(entries)
    return logprobs


def _decoded(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.decode([token])
