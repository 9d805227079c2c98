"""What goes into an engine and what comes out of it."""

from dataclasses import dataclass, field

from simulator.engine.blocks import Held
from simulator.workload.content import Content


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to generate."""

    number: int
    content: Content
    """Of the prompt and the answer after it."""
    prompt_tokens: int
    output_tokens: int
    """Generated exactly; at least 1."""
    lora: str | None = None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """A request's first token is out."""

    number: int
    at_s: float
    cached_tokens: int
    """Found in the prefix cache at the first admission."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A request's last token is out."""

    number: int
    at_s: float
    preemptions: int


@dataclass(slots=True, eq=False)
class Sequence:
    """A request that is waiting or running.

    While it decodes it grows by one token in every step, so its length is kept as `offset`: the length less the
    engine's count of steps."""

    request: EngineRequest
    length: int
    """Tokens of prompt and answer; true while it does not decode."""
    arrived_s: float
    computed: int = 0
    """Tokens in the cache; true while it does not decode."""
    hashed: list[Held] = field(default_factory=list[Held])
    """Its first blocks: those that could be found while it ran."""
    hashed_blocks: int = 0
    """How many those are."""
    blank: int = 0
    """Blocks held after those."""
    offset: int | None = None
    """None while it does not decode."""
    cached_tokens: int | None = None
    """None before the first admission."""
    preemptions: int = 0
    epoch: int = 0
    """Counts its leaving the decoding ones, to know which plans for it are void."""

    @property
    def blocks(self) -> int:
        return self.hashed_blocks + self.blank
