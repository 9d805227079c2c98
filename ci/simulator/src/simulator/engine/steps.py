"""Steps of an engine, and the metrics that it shows meanwhile."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt

from picker.endpoints.load.prefill_tracker import PrefillCounters

from simulator.engine.sequence import Sequence


@dataclass(slots=True)
class Step:
    """What one step computes."""

    decoding: int
    """Sequences that compute only their newest token."""
    context_tokens: int
    """Cached tokens that attention reads."""
    preempts: bool = False
    """Whether the decoding sequences and a chunk lacked blocks. Then the step admits no sequence."""
    prefill_tokens: int = 0
    """Tokens of sequences that had more to compute than their newest token."""
    chunks: list[tuple[Sequence, int]] = field(default_factory=list[tuple[Sequence, int]])
    """The sequences that do not decode yet, and how many tokens each computes."""
    admitted: list[Sequence] = field(default_factory=list[Sequence])
    """Sequences admitted for the first time."""

    def compute(self, sequence: Sequence, count: int) -> None:
        """Add `count` tokens of a sequence that does not decode yet, after its computed ones."""
        self.context_tokens += sequence.computed
        if sequence.length - sequence.computed > 1:
            self.prefill_tokens += count
        else:
            self.decoding += 1
        self.chunks.append((sequence, count))


@dataclass(slots=True)
class StepBatch:
    """Consecutive steps that are alike: the first takes `first_s`, each later one `growth_s` more than its predecessor.

    A batch of several steps has no chunks: all its sequences decode.
    """

    begun_s: float
    first_s: float
    growth_s: float
    steps: int
    first: Step
    """The first of the steps. In each later one, attention reads `decoding` more tokens."""
    blocks_per_step: list[int]
    """Blocks that the steps allocate, from the first one on. Periodic: the first entry follows the last one. Empty for
    a batch of one step."""

    def duration_s(self, steps: int) -> float:
        """Return how long the first `steps` steps take."""
        return steps * self.first_s + self.growth_s * (steps * (steps - 1) // 2)

    def steps_until(self, at_s: float) -> int:
        """Return the least number of steps, at least 1, that end at `at_s` or later. At most all steps."""
        elapsed_s = at_s - self.begun_s
        half = self.growth_s / 2
        linear = self.first_s - half
        if half > 0:
            steps = int((sqrt(linear * linear + 4 * half * max(0.0, elapsed_s)) - linear) / (2 * half))
        else:
            steps = int(max(0.0, elapsed_s) / self.first_s)
        steps = max(1, steps - 1)
        while steps < self.steps and self.duration_s(steps) < elapsed_s:
            steps += 1
        return min(steps, self.steps)

    def blocks_after_first(self, steps: int) -> int:
        """Return how many blocks the second to the `steps`-th step of the batch allocate."""
        if steps == 1:
            return 0
        periods, remainder = divmod(steps - 1, len(self.blocks_per_step))
        return periods * sum(self.blocks_per_step) + sum(self.blocks_per_step[1 : remainder + 1])


@dataclass(slots=True)
class Counters:
    """Counters since the start of the server."""

    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache at the first admission. Counted when that step has ended."""
    prefix_hits: int = 0
    prompt_tokens: int = 0
    """Tokens of the prompts that have a first token. The whole prompt counts at once."""
    first_tokens: int = 0
    first_token_s: float = 0.0
    """Sum of the times from arrival to first token."""
    steps: int = 0
    generated: int = 0
    """Tokens generated."""

    def looked_up(self, admitted: Iterable[Sequence]) -> None:
        for sequence in admitted:
            self.prefix_queries += sequence.request.prompt_tokens
            self.prefix_hits += sequence.cached_tokens or 0

    def first_token(self, sequence: Sequence, now_s: float) -> None:
        self.prompt_tokens += sequence.request.prompt_tokens
        self.first_tokens += 1
        self.first_token_s += now_s - sequence.arrived_s

    def progress(self) -> PrefillCounters:
        """Return the current values."""
        return PrefillCounters(
            self.first_tokens, self.first_token_s, self.prompt_tokens, self.prefix_queries, self.prefix_hits
        )


@dataclass(slots=True)
class EngineState:
    """What a scrape shows. Must not be modified."""

    running: int
    waiting: int
    kv_cache_usage: float
    loras: frozenset[str]
    """Adapters of requests that have a token. vLLM shows them both as running and as waiting."""
    counters: PrefillCounters
    steps: int
    """Of the engine since its start."""
    generated: int
    """Tokens since its start."""


@dataclass(slots=True)
class MetricsView:
    """What an engine's metrics show from the beginning of a batch of steps to its end."""

    since_s: float
    batch: StepBatch | None
    """None if the engine is idle."""
    before: EngineState
    """The state at the end of the previous step."""
    running: int
    waiting: int
    usable_blocks: int
    free_blocks: int
    """Free blocks after the allocation of the batch's first step."""

    def at(self, at_s: float) -> EngineState:
        """Return the state at `at_s`. A server updates its metrics at the end of each step, so requests that arrived
        since are not among the waiting ones."""
        batch, before = self.batch, self.before
        if batch is None or batch.steps == 1 or not (ended := batch.steps_until(at_s) - 1):
            return before
        usage = 1.0 - (self.free_blocks - batch.blocks_after_first(ended)) / self.usable_blocks
        # Counters of first tokens and adapters do not change within a batch of several steps.
        generated = before.generated + ended * batch.first.decoding
        return EngineState(
            self.running, self.waiting, usage, before.loras, before.counters, before.steps + ended, generated
        )


@dataclass(frozen=True, slots=True)
class EngineInternals:
    """State of an engine that no scrape shows."""

    sequences: int
    """Running and waiting sequences."""
    uncomputed_tokens: int
    """Prompt tokens that are not computed yet."""
    context_tokens: int
    """Tokens of the running sequences, and those of the waiting ones once they run."""
    steps_until_it_fits: int
    """Steps until enough sequences have ended for the prompt in question and all waiting ones to have their blocks."""
    loras: frozenset[str]
    """Adapters of the running sequences."""
