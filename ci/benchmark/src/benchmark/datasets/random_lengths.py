"""The data set `random`: prompts of random words and random length behind one shared prefix."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Prompt, Workload


@dataclass(frozen=True, slots=True)
class RandomLengths:
    """What the `--random-*` flags say, with the defaults of `vllm bench serve`."""

    prompts: int = 1000
    prefix_tokens: int = 0
    """The same for all prompts, on top of the input length."""
    input_tokens: int = 1024
    output_tokens: int = 128
    range_ratio: float = 0.0
    """0 <= r < 1: lengths L are uniform in [(1-r)L, (1+r)L], both ends included."""
    old_range_ratio: bool = False
    """The meaning of `range_ratio` before April 2025: uniform in [rL, L], 0 <= r <= 1."""


def random_workload(settings: RandomLengths, tokenizer: Tokenizer, seed: int) -> Workload:
    """Equal arguments make equal workloads. The lengths are those that `vllm bench serve` draws with the same seed: all
    of the inputs first, then all of the outputs."""
    numbers = np.random.default_rng(seed)
    words = np.array(tokenizer.words)
    inputs = numbers.integers(*_range(settings.input_tokens, settings, least=0), size=settings.prompts)
    outputs = numbers.integers(*_range(settings.output_tokens, settings, least=1), size=settings.prompts)
    prefix = random_text(numbers, words, settings.prefix_tokens)
    return Workload(
        f"random: {settings.prompts} prompts of {described_lengths(settings)}",
        tuple(
            (
                Prompt(
                    prefix + random_text(numbers, words, int(input_tokens)),
                    settings.prefix_tokens + int(input_tokens),
                    int(output_tokens),
                ),
            )
            for input_tokens, output_tokens in zip(inputs, outputs, strict=True)
        ),
    )


def described_lengths(settings: RandomLengths) -> str:
    """For people."""
    shared = f"{settings.prefix_tokens} shared + " if settings.prefix_tokens else ""
    input_tokens, output_tokens = (_told(each, settings) for each in (settings.input_tokens, settings.output_tokens))
    return f"{shared}{input_tokens} tokens, output {output_tokens}"


def random_text(numbers: np.random.Generator, words: NDArray[np.str_], tokens: int) -> str:
    """So many tokens of text."""
    return "".join(words[numbers.integers(len(words), size=tokens)].tolist())


def _range(length: int, settings: RandomLengths, least: int) -> tuple[int, int]:
    """The lowest length and one more than the highest."""
    ratio = settings.range_ratio
    if settings.old_range_ratio:
        return max(least, int(length * ratio)), max(least, length) + 1
    return max(least, math.floor(length * (1 - ratio))), max(least, math.ceil(length * (1 + ratio))) + 1


def _told(length: int, settings: RandomLengths) -> str:
    low, above = _range(length, settings, least=0)
    return f"{low}-{above - 1}" if above - low > 1 else str(low)
