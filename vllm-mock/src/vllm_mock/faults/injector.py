"""Faults on purpose, for tests of what stands before a model server. Set by flags, or at /mock/faults while running."""

import random

from pydantic import BaseModel, ConfigDict, Field


class Faults(BaseModel):
    """What goes wrong. The defaults are a healthy server; a rate is a share of the completions, 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error_500_rate: float = Field(default=0.0, ge=0, le=1, description="Share of completions answered 500")
    error_503_rate: float = Field(default=0.0, ge=0, le=1, description="Share of completions answered 503")
    cut_stream_rate: float = Field(
        default=0.0, ge=0, le=1, description="Share of streams whose connection breaks halfway"
    )
    cut_stream_after_events: int = Field(default=3, ge=0, description="Events of a stream before its connection breaks")
    metrics_delay_s: float = Field(default=0.0, ge=0, description="Seconds before /metrics answers")
    metrics_hang: bool = Field(default=False, description="/metrics never answers")
    metrics_stale: bool = Field(default=False, description="/metrics shows the same page for ever")
    stalled: bool = Field(default=False, description="The engine makes no more steps")
    slow_factor: float = Field(default=1.0, gt=0, description="Steps take this many times as long: a throttled card")


class Trouble:
    """The faults of one server, and the dice."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self.stale_page: bytes | None = None
        """What /metrics showed when it went stale."""
        self._dice = random.Random(seed)

    def strikes(self, rate: float) -> bool:
        return rate > 0 and self._dice.random() < rate
