"""Input and output of an engine, and its state of a request."""

from dataclasses import dataclass, field

from simulator.engine.blocks import HeldRun
from simulator.workload.content import Content


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to generate."""

    number: int
    content: Content
    """The content of the prompt and of the output after it."""
    prompt_tokens: int
    output_tokens: int
    """Exact number of generated tokens, at least 1."""
    lora: str | None = None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """A request has its first token."""

    number: int
    at_s: float
    cached_tokens: int
    """Tokens found in the prefix cache at the first admission."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A request has its last token."""

    number: int
    at_s: float
    preemptions: int


@dataclass(slots=True, eq=False)
class Sequence:
    """A request that is waiting or running.

    A decoding sequence grows by one token in every step. So its length is stored as `offset`: the length less the
    engine's number of steps.
    """

    request: EngineRequest
    length: int
    """Tokens of prompt and output. Valid while the sequence does not decode."""
    arrived_s: float
    computed: int = 0
    """Tokens in the cache. Valid while the sequence does not decode."""
    hashed: list[HeldRun] = field(default_factory=list[HeldRun])
    """Its first blocks: those in the prefix cache. Blocks filled by decoding are added when it is released."""
    hashed_blocks: int = 0
    """Number of blocks in `hashed`."""
    unhashed_blocks: int = 0
    """Number of blocks after those."""
    offset: int | None = None
    """None while the sequence does not decode."""
    cached_tokens: int | None = None
    """None before the first admission."""
    preemptions: int = 0
    epoch: int = 0
    """Counts how often the sequence has stopped decoding. Its planned end is void if the epoch has changed."""

    @property
    def blocks(self) -> int:
        return self.hashed_blocks + self.unhashed_blocks
