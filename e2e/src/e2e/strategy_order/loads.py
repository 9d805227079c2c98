"""Converts a scenario of the simulator into requests with text."""

import random
from collections.abc import Iterator, Sequence

from benchmark.workload import Prompt, Workload
from simulator.workload.content import Content
from simulator.workload.generator import sessions
from simulator.workload.scenario import Generated, Poisson, Scenario


def workload_of(scenario: Scenario, seed: int, words: Sequence[str]) -> Workload:
    """Returns the prompts and responses that the simulator draws with this seed. `words`: texts of one token each.

    Raises ValueError unless the scenario has single requests with Poisson arrivals.
    """
    generated = scenario.workload
    if not isinstance(generated, Generated) or not isinstance(generated.arrivals, Poisson) or generated.turns:
        raise ValueError(f"{scenario.name}: expected single requests with Poisson arrivals")
    arriving = sessions(generated, scenario.duration_s, random.Random(f"{seed} load"))
    turns = [turn for session in arriving for turn in session.turns]
    return Workload(
        scenario.name,
        tuple(
            (Prompt(_text(turn.content, turn.prompt_tokens, words), turn.prompt_tokens, turn.output_tokens),)
            for turn in turns
        ),
    )


def rate_per_s(scenario: Scenario, workload: Workload) -> float:
    """Requests per second at which the workload arrives within the scenario's duration."""
    return len(workload) / scenario.duration_s


def _text(content: Content, tokens: int, words: Sequence[str]) -> str:
    """Text of `content`: texts of two contents share a prefix as long as the contents do."""
    return "".join(_words(content, tokens, words))


def _words(content: Content, tokens: int, words: Sequence[str]) -> Iterator[str]:
    at = 0
    for piece in content.pieces:
        end = min(tokens, piece.end_tokens)
        yield from random.Random(piece.number).choices(words, k=max(0, end - at))
        at = max(at, end)
