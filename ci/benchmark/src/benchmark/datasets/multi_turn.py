"""The data set `multi_turn`: conversations of random words, every turn sent with all that was said before."""

from dataclasses import dataclass, replace

import numpy as np

from benchmark.datasets.random_lengths import RandomLengths, described_lengths, random_workload
from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Workload


@dataclass(frozen=True, slots=True)
class MultiTurn:
    """Lengths are those of a turn; the prefix, shared by all, opens a conversation as a system message would."""

    lengths: RandomLengths
    """`prompts` are requests in all, so that a conversation's turns are among them."""
    turns: int = 4


def multi_turn_workload(settings: MultiTurn, tokenizer: Tokenizer, seed: int) -> Workload:
    """As many whole conversations as `prompts` allows, at least one. Equal arguments make equal workloads."""
    conversations = max(1, settings.lengths.prompts // settings.turns)
    openings = random_workload(replace(settings.lengths, prompts=conversations), tokenizer, seed)
    later = replace(settings.lengths, prompts=conversations * (settings.turns - 1), prefix_tokens=0)
    # A stream of numbers of its own, so that the openings do not depend on the number of turns.
    turns = list(random_workload(later, tokenizer, int(np.random.default_rng([seed, 1]).integers(1 << 32))))
    return Workload(
        f"multi_turn: {conversations} conversations of {settings.turns} turns of {described_lengths(settings.lengths)}",
        tuple(
            (*opening, *turns[index * (settings.turns - 1) : (index + 1) * (settings.turns - 1)])
            for index, opening in enumerate(openings.conversations)
        ),
    )
