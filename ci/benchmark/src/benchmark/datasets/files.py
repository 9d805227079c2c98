"""Data sets in files: conversations in ShareGPT's shape, and questions, with or without answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Conversation, Prompt, Workload

_T = TypeVar("_T")

MIN_TOKENS = 4
"""vLLM's client passes over questions and answers that are shorter: they measure overhead."""
MAX_PROMPT_TOKENS = 1024
MAX_TOTAL_TOKENS = 2048
"""vLLM's bounds for ShareGPT, so that its figures stay comparable with published ones."""


class BadDataset(Exception):
    """A file that cannot be used; the message names it, the place, what was found and what is allowed."""


class _Said(msgspec.Struct, frozen=True):
    value: str


class _ShareGptEntry(msgspec.Struct, frozen=True):
    conversations: list[_Said] = []


class _Question(msgspec.Struct, frozen=True):
    """One of `prompt` and `question` is needed. Further fields are passed over."""

    prompt: str | None = None
    question: str | None = None
    answer: str | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class FileDataset:
    """What the flags say of a file."""

    path: Path
    prompts: int
    """Requests in all. A smaller file is repeated."""
    output_tokens: int | None = None
    """For every request; None: as many as the answer in the file has."""
    turns: int = 1
    """Of a conversation, at most; shorter ones are played as far as they go."""
    ignore_eos: bool = False


def sharegpt_workload(settings: FileDataset, tokenizer: Tokenizer, seed: int) -> Workload:
    """A JSON list of `{"conversations": [{"from": ..., "value": ...}, ...]}`, the user first. The order depends on the
    seed. Raises BadDataset, OSError."""
    try:
        entries = msgspec.json.decode(settings.path.read_bytes(), type=list[_ShareGptEntry])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadDataset(
            f'{settings.path}: {error}; allowed is a list of {{"conversations": [{{"from": ..., "value": ...}}, ...]}}'
        ) from None
    return _sampled(settings, "sharegpt", entries, lambda entry: _played(entry, settings, tokenizer), seed)


def custom_workload(settings: FileDataset, tokenizer: Tokenizer, seed: int) -> Workload:
    """A JSON object a line: `prompt` or `question`, and `output_tokens` or `answer` (for its length) where they are
    known; `settings.output_tokens` goes before both. The order depends on the seed. Raises BadDataset, OSError."""
    questions: list[_Question] = []
    for number, line in enumerate(settings.path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            questions.append(msgspec.json.decode(line, type=_Question))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadDataset(
                f'{settings.path}, line {number}: {error}; allowed is {{"prompt": TEXT}} or {{"question": TEXT}}, with '
                '"answer": TEXT or "output_tokens": NUMBER'
            ) from None
    return _sampled(settings, "custom", questions, lambda question: _asked(question, settings, tokenizer), seed)


DEFAULT_OUTPUT_TOKENS = 256
"""Where a line tells none: vLLM's default for its `custom` data set."""


def _asked(question: _Question, settings: FileDataset, tokenizer: Tokenizer) -> Conversation:
    text = question.prompt or question.question
    if not text:
        return ()
    output_tokens = settings.output_tokens or question.output_tokens
    if output_tokens is None:
        output_tokens = max(1, tokenizer.count(question.answer)) if question.answer else DEFAULT_OUTPUT_TOKENS
    return (Prompt(text, tokenizer.count(text), output_tokens),)


def _played(entry: _ShareGptEntry, settings: FileDataset, tokenizer: Tokenizer) -> Conversation:
    """Questions with the length of the answers to them, as far as vLLM's bounds go."""
    turns: list[Prompt] = []
    said = [each.value for each in entry.conversations]
    so_far = 0
    for question, answer in list(zip(said[::2], said[1::2], strict=False))[: settings.turns]:
        tokens = tokenizer.count(question)
        output_tokens = settings.output_tokens or tokenizer.count(answer)
        too_short = tokens < MIN_TOKENS or (settings.output_tokens is None and output_tokens < MIN_TOKENS)
        if too_short or so_far + tokens > MAX_PROMPT_TOKENS or so_far + tokens + output_tokens > MAX_TOTAL_TOKENS:
            break
        so_far += tokens + output_tokens
        turns.append(Prompt(question, tokens, output_tokens))
    return tuple(turns)


def _sampled(
    settings: FileDataset, name: str, entries: Sequence[_T], made: Callable[[_T], Conversation], seed: int
) -> Workload:
    """Conversations out of the entries, in an order of the seed, until there are requests enough."""
    chosen: list[Conversation] = []
    missing = settings.prompts
    order: list[int] = np.random.default_rng(seed).permutation(len(entries)).tolist()
    for index in order:
        if not missing:
            break
        turns = made(entries[index])[:missing]
        if turns:
            chosen.append(turns)
            missing -= len(turns)
    if not chosen:
        raise BadDataset(f"{settings.path}: no usable entry among {len(entries)}")
    told = ", repeated" if missing else ""
    usable = len(chosen)
    while missing:
        again = chosen[len(chosen) % usable][:missing]
        chosen.append(again)
        missing -= len(again)
    return Workload(
        f"{name}: {settings.prompts} requests of {settings.path.name}{told}",
        tuple(chosen),
        ignore_eos=settings.ignore_eos,
    )
