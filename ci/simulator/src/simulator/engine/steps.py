"""What an engine is doing, and what can be seen of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt

from picker.endpoints.load.prefill_tracker import PrefillCounters

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
    admitted: list[Sequence]
    """For the first time, in its first step."""

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
    admitted: list[Sequence] = field(default_factory=list[Sequence])
    """For the first time."""

    def compute(self, sequence: Sequence, count: int) -> None:
        """`count` prompt tokens of `sequence`, after those that it has computed."""
        self.context_tokens += sequence.computed
        if sequence.length - sequence.computed > 1:
            self.prefill_tokens += count
        else:
            self.decoding += 1
        if sequence.computed + count == sequence.length:
            self.first_tokens.append(sequence)


@dataclass(slots=True)
class Counters:
    """Since the server's start."""

    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache, at the first admission; counted when that step has ended."""
    prefix_hits: int = 0
    prompt_tokens: int = 0
    """Of prompts whose first token is out; the whole prompt counts at once."""
    first_tokens: int = 0
    first_token_s: float = 0.0
    """Sum of the times from arrival to first token."""

    def looked_up(self, admitted: Iterable[Sequence]) -> None:
        for each in admitted:
            self.prefix_queries += each.request.prompt_tokens
            self.prefix_hits += each.cached_tokens or 0

    def first_token(self, sequence: Sequence, now_s: float) -> None:
        self.prompt_tokens += sequence.request.prompt_tokens
        self.first_tokens += 1
        self.first_token_s += now_s - sequence.arrived_s

    def progress(self) -> PrefillCounters:
        """As of now."""
        return PrefillCounters(
            self.first_tokens, self.first_token_s, self.prompt_tokens, self.prefix_queries, self.prefix_hits
        )


@dataclass(slots=True)
class EngineState:
    """What a scrape would show. Not to be changed."""

    running: int
    waiting: int
    kv_cache_usage: float
    loras: frozenset[str]
    """Adapters of requests that have had a token; vLLM shows these as running and as waiting."""
    counters: PrefillCounters


@dataclass(slots=True)
class Shown:
    """What a server's metrics show from the beginning of a stride to its end."""

    since_s: float
    stride: Stride | None
    """None: nothing is under way."""
    before: EngineState
    """As of the end of the last step before."""
    running: int
    waiting: int
    usable_blocks: int
    free_blocks: int
    """When the stride's first step has its own."""
    needs: list[int]
    """Blocks that the stride's steps take, from the first one on; over again from the end on."""

    def at(self, at_s: float) -> EngineState:
        """A server writes its metrics at the end of each step, so what has come since is not among those that wait."""
        stride, before = self.stride, self.before
        if stride is None or stride.steps == 1 or not (ended := stride.steps_until(at_s) - 1):
            return before
        usage = 1.0 - (self.free_blocks - self.blocks_after_first(ended)) / self.usable_blocks
        # Counters and adapters are the same through a stride of several steps.
        return EngineState(self.running, self.waiting, usage, before.loras, before.counters)

    def blocks_after_first(self, steps: int) -> int:
        """Blocks that the stride's steps take, from its second step to its `steps`-th."""
        if steps == 1:
            return 0
        cycles, rest = divmod(steps - 1, len(self.needs))
        return cycles * sum(self.needs) + sum(self.needs[1 : rest + 1])


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
    loras: frozenset[str]
    """Adapters that run."""
