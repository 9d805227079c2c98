"""The data set `prefix_repetition`: groups of prompts with a long shared prefix, as from one application."""

from dataclasses import dataclass

import numpy as np

from benchmark.datasets.random_lengths import random_text
from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Prompt, Workload


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The `--prefix-repetition-*` flags, with the defaults of `vllm bench serve`."""

    prompts: int = 1000
    prefixes: int = 10
    """Number of groups. They have equally many prompts; the first groups get the remainder."""
    prefix_tokens: int = 256
    suffix_tokens: int = 256
    output_tokens: int = 128


def shared_prefix_workload(settings: SharedPrefix, tokenizer: Tokenizer, seed: int) -> Workload:
    """Makes a workload with the prompts of all groups in random order. Equal arguments give equal workloads."""
    numbers = np.random.default_rng(seed)
    words = np.array(tokenizer.words)
    prefixes = [random_text(numbers, words, settings.prefix_tokens) for _ in range(settings.prefixes)]
    groups: list[int] = numbers.permutation(np.arange(settings.prompts) % settings.prefixes).tolist()
    tokens = settings.prefix_tokens + settings.suffix_tokens
    return Workload(
        f"prefix_repetition: {settings.prompts} prompts of {settings.prefix_tokens} + {settings.suffix_tokens} tokens, "
        f"{settings.prefixes} different prefixes, output {settings.output_tokens}",
        tuple(
            (
                Prompt(
                    prefixes[group] + random_text(numbers, words, settings.suffix_tokens),
                    tokens,
                    settings.output_tokens,
                ),
            )
            for group in groups
        ),
    )
