"""The data set `random`: prompts of random words and random lengths after one shared prefix."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Prompt, Workload


@dataclass(frozen=True, slots=True)
class RandomLengths:
    """The `--random-*` flags, with the defaults of `vllm bench serve`."""

    prompts: int = 1000
    prefix_tokens: int = 0
    """Length of the prefix that all prompts share. It is added to the input length."""
    input_tokens: int = 1024
    output_tokens: int = 128
    range_ratio: float = 0.0
    """r with 0 <= r < 1. A length L is drawn uniformly from [(1-r)L, (1+r)L], both ends included."""
    old_range_ratio: bool = False
    """Use the meaning of `range_ratio` that vLLM had until April 2025: uniform in [rL, L], 0 <= r <= 1."""


def random_workload(settings: RandomLengths, tokenizer: Tokenizer, seed: int) -> Workload:
    """Makes a workload; equal arguments give equal workloads.

    The lengths equal those of `vllm bench serve` with the same seed: it draws all input lengths first, then all output
    lengths."""
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
    """The lengths as text, for a workload's name."""
    shared = f"{settings.prefix_tokens} shared + " if settings.prefix_tokens else ""
    input_tokens = _described_range(settings.input_tokens, settings)
    output_tokens = _described_range(settings.output_tokens, settings)
    return f"{shared}{input_tokens} tokens, output {output_tokens}"


def random_text(numbers: np.random.Generator, words: NDArray[np.str_], tokens: int) -> str:
    """A text of `tokens` tokens."""
    return "".join(words[numbers.integers(len(words), size=tokens)].tolist())


def _range(length: int, settings: RandomLengths, least: int) -> tuple[int, int]:
    """The lowest length, and the highest plus one."""
    ratio = settings.range_ratio
    if settings.old_range_ratio:
        return max(least, int(length * ratio)), max(least, length) + 1
    return max(least, math.floor(length * (1 - ratio))), max(least, math.ceil(length * (1 + ratio))) + 1


def _described_range(length: int, settings: RandomLengths) -> str:
    low, above = _range(length, settings, least=0)
    return f"{low}-{above - 1}" if above - low > 1 else str(low)
