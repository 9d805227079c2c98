"""Data sets in files: conversations in ShareGPT's format, and questions with or without answers."""

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
"""vLLM's client skips shorter questions and answers, because they measure overhead."""
MAX_PROMPT_TOKENS = 1024
MAX_TOTAL_TOKENS = 2048
"""The limits of vLLM's client for ShareGPT. They keep results comparable with published ones."""


class BadDataset(Exception):
    """A file cannot be used. The message names the file, the line, what was found and what is allowed."""


class _ShareGptMessage(msgspec.Struct, frozen=True):
    value: str


class _ShareGptEntry(msgspec.Struct, frozen=True):
    conversations: list[_ShareGptMessage] = []


class _Question(msgspec.Struct, frozen=True):
    """One of `prompt` and `question` is required. Other fields are ignored."""

    prompt: str | None = None
    question: str | None = None
    answer: str | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class FileDataset:
    """The settings of a data set in a file."""

    path: Path
    prompts: int
    """Number of requests. A smaller file is repeated."""
    output_tokens: int | None = None
    """Output tokens of every request; None: the length of the answer in the file."""
    turns: int = 1
    """Maximum number of turns of a conversation. Shorter conversations are used in full."""
    ignore_eos: bool = False


def sharegpt_workload(settings: FileDataset, tokenizer: Tokenizer, seed: int) -> Workload:
    """Reads a JSON list of `{"conversations": [{"from": ..., "value": ...}, ...]}`, where the user is first.

    The order depends on the seed. Raises BadDataset, OSError."""
    try:
        entries = msgspec.json.decode(settings.path.read_bytes(), type=list[_ShareGptEntry])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadDataset(
            f'{settings.path}: {error}; allowed is a list of {{"conversations": [{{"from": ..., "value": ...}}, ...]}}'
        ) from None
    return _sampled(settings, "sharegpt", entries, lambda entry: _conversation(entry, settings, tokenizer), seed)


def custom_workload(settings: FileDataset, tokenizer: Tokenizer, seed: int) -> Workload:
    """Reads a JSON object from each line: `prompt` or `question`, and optionally `output_tokens` or `answer`.

    The output length is `settings.output_tokens`, else `output_tokens`, else the length of `answer`, else
    `DEFAULT_OUTPUT_TOKENS`. The order depends on the seed. Raises BadDataset, OSError."""
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
    return _sampled(settings, "custom", questions, lambda question: _single_turn(question, settings, tokenizer), seed)


DEFAULT_OUTPUT_TOKENS = 256
"""Output length if a line has none: vLLM's default for its `custom` data set."""


def _single_turn(question: _Question, settings: FileDataset, tokenizer: Tokenizer) -> Conversation:
    text = question.prompt or question.question
    if not text:
        return ()
    output_tokens = settings.output_tokens or question.output_tokens
    if output_tokens is None:
        output_tokens = max(1, tokenizer.count(question.answer)) if question.answer else DEFAULT_OUTPUT_TOKENS
    return (Prompt(text, tokenizer.count(text), output_tokens),)


def _conversation(entry: _ShareGptEntry, settings: FileDataset, tokenizer: Tokenizer) -> Conversation:
    """The questions of an entry with the lengths of their answers, up to the first that exceeds vLLM's limits."""
    turns: list[Prompt] = []
    texts = [message.value for message in entry.conversations]
    so_far = 0
    for question, answer in list(zip(texts[::2], texts[1::2], strict=False))[: settings.turns]:
        tokens = tokenizer.count(question)
        output_tokens = settings.output_tokens or tokenizer.count(answer)
        too_short = tokens < MIN_TOKENS or (settings.output_tokens is None and output_tokens < MIN_TOKENS)
        if too_short or so_far + tokens > MAX_PROMPT_TOKENS or so_far + tokens + output_tokens > MAX_TOTAL_TOKENS:
            break
        so_far += tokens + output_tokens
        turns.append(Prompt(question, tokens, output_tokens))
    return tuple(turns)


def _sampled(
    settings: FileDataset, name: str, entries: Sequence[_T], convert: Callable[[_T], Conversation], seed: int
) -> Workload:
    """Converts entries in an order that depends on the seed, until there are `settings.prompts` requests.

    An entry whose conversation is empty is skipped. Raises BadDataset if all are empty."""
    chosen: list[Conversation] = []
    missing = settings.prompts
    order: list[int] = np.random.default_rng(seed).permutation(len(entries)).tolist()
    for index in order:
        if not missing:
            break
        turns = convert(entries[index])[:missing]
        if turns:
            chosen.append(turns)
            missing -= len(turns)
    if not chosen:
        raise BadDataset(f"{settings.path}: no usable entry among {len(entries)}")
    repeated = ", repeated" if missing else ""
    usable = len(chosen)
    while missing:
        again = chosen[len(chosen) % usable][:missing]
        chosen.append(again)
        missing -= len(again)
    return Workload(
        f"{name}: {settings.prompts} requests of {settings.path.name}{repeated}",
        tuple(chosen),
        ignore_eos=settings.ignore_eos,
    )
