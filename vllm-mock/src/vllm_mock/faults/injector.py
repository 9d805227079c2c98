"""Faults for tests of gateways in front of a model server. They are set by flags, or at /mock/faults at run time."""

import random

from pydantic import BaseModel, ConfigDict, Field


class Faults(BaseModel):
    """Active faults. The defaults are a healthy server. A rate is a share of the completions, 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error_500_rate: float = Field(default=0.0, ge=0, le=1, description="Share of completions answered 500")
    error_503_rate: float = Field(default=0.0, ge=0, le=1, description="Share of completions answered 503")
    cut_stream_rate: float = Field(
        default=0.0, ge=0, le=1, description="Share of streams whose connection breaks halfway"
    )
    cut_stream_after_events: int = Field(default=3, ge=0, description="Events of a stream before its connection breaks")
    metrics_delay_s: float = Field(default=0.0, ge=0, description="Seconds before /metrics answers")
    metrics_hang: bool = Field(default=False, description="/metrics never answers")
    metrics_stale: bool = Field(default=False, description="/metrics always shows the same page")
    stalled: bool = Field(default=False, description="The engine makes no steps")
    slow_factor: float = Field(default=1.0, gt=0, description="Steps take this many times as long: a throttled card")


class FaultInjector:
    """Draws the faults of one server from a seeded random generator."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self.stale_page: bytes | None = None
        """The page that /metrics shows while `metrics_stale` is set; None before the first such scrape."""
        self._rng = random.Random(seed)

    def draw(self, rate: float) -> bool:
        """Whether a fault of this `rate` occurs."""
        return rate > 0 and self._rng.random() < rate
