"""The data set `multi_turn`: conversations of random words. Every turn is sent with all previous turns."""

from dataclasses import dataclass, replace

import numpy as np

from benchmark.datasets.random_lengths import RandomLengths, described_lengths, random_workload
from benchmark.tokens.tokenizer import Tokenizer
from benchmark.workload import Workload


@dataclass(frozen=True, slots=True)
class MultiTurn:
    """The settings of `multi_turn`.

    The shared prefix opens every conversation, as a system message does."""

    lengths: RandomLengths
    """Lengths of a turn. `prompts` counts requests, so all turns of a conversation."""
    turns: int = 4


def multi_turn_workload(settings: MultiTurn, tokenizer: Tokenizer, seed: int) -> Workload:
    """A workload of as many whole conversations as `prompts` allows, at least one. Equal arguments give equal
    workloads."""
    conversations = max(1, settings.lengths.prompts // settings.turns)
    openings = random_workload(replace(settings.lengths, prompts=conversations), tokenizer, seed)
    later = replace(settings.lengths, prompts=conversations * (settings.turns - 1), prefix_tokens=0)
    # A separate random stream: the openings do not depend on the number of turns.
    turns = list(random_workload(later, tokenizer, int(np.random.default_rng([seed, 1]).integers(1 << 32))))
    return Workload(
        f"multi_turn: {conversations} conversations of {settings.turns} turns of {described_lengths(settings.lengths)}",
        tuple(
            (*opening, *turns[index * (settings.turns - 1) : (index + 1) * (settings.turns - 1)])
            for index, opening in enumerate(openings.conversations)
        ),
    )
