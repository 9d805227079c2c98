"""What an engine is doing, and what can be seen of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt

from simulator.engine.sequence import Sequence


@dataclass(slots=True)
class Stride:
    """Steps that are under way: the first takes `first_s`, each later one `growth_s` more than the one before."""

    begun_s: float
    first_s: float
    growth_s: float
    steps: int
    first_tokens: list[Sequence]
    """Whose prompts are computed by its end; only in strides of one step."""

    def duration_s(self, steps: int) -> float:
        return steps * self.first_s + self.growth_s * (steps * (steps - 1) // 2)

    def steps_until(self, at_s: float) -> int:
        """The least number of steps, 1 or more, that end at `at_s` or later; at most all."""
        wanted_s = at_s - self.begun_s
        half = self.growth_s / 2
        linear = self.first_s - half
        if half > 0:
            steps = int((sqrt(linear * linear + 4 * half * max(0.0, wanted_s)) - linear) / (2 * half))
        else:
            steps = int(max(0.0, wanted_s) / self.first_s)
        steps = max(1, steps - 1)
        while steps < self.steps and self.duration_s(steps) < wanted_s:
            steps += 1
        return min(steps, self.steps)


@dataclass(slots=True)
class Step:
    """What one step computes, as far as its time depends on it."""

    decoding: int
    context_tokens: int
    prefill_tokens: int = 0
    first_tokens: list[Sequence] = field(default_factory=list[Sequence])

    def compute(self, sequence: Sequence, count: int) -> None:
        """`count` prompt tokens of `sequence`, after those that it has computed."""
        self.context_tokens += sequence.computed
        if sequence.length - sequence.computed > 1:
            self.prefill_tokens += count
        else:
            self.decoding += 1
        if sequence.computed + count == sequence.length:
            self.first_tokens.append(sequence)


@dataclass(frozen=True, slots=True)
class EngineState:
    """What a scrape would show."""

    running: int
    waiting: int
    kv_cache_usage: float
    running_loras: frozenset[str]
    waiting_loras: frozenset[str]


@dataclass(frozen=True, slots=True)
class Inside:
    """What no scrape shows."""

    sequences: int
    """Running and waiting."""
    uncomputed_tokens: int
    """Of prompts."""
    context_tokens: int
    """Held now, and by those that wait once they run."""
    steps_until_it_fits: int
    """Until enough sequences have ended for the prompt in question and all that wait to have their blocks."""
    mean_steps_left: float
    """Of the running ones."""


NO_ADAPTERS: frozenset[str] = frozenset()


def adapters(sequences: Iterable[Sequence]) -> frozenset[str]:
    """That some of `sequences` run with."""
    return frozenset(each.request.lora for each in sequences if each.request.lora is not None)
