"""Values of the metrics. Updates are cheap: a step of many tokens takes a few additions."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_mock.engine.messages import FinishReason


class Histogram:
    """Observations by bucket. The last bucket has no upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(float(bound) for bound in bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(slots=True)
class Values:
    """Values of one engine: totals of counters, gauges as of the last step, and histograms by field name."""

    histograms: dict[str, Histogram]
    running: int = 0
    waiting_capacity: int = 0
    waiting_deferred: int = 0
    kv_cache_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    prompt_cached: int = 0
    generation_tokens: int = 0
    success: dict[FinishReason, int] = field(default_factory=lambda: dict.fromkeys(FinishReason, 0))
    rejections: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("max_num_queued_reqs", "max_num_queued_tokens"), 0)
    )
    adapters: dict[str, float] = field(default_factory=dict[str, float])
    """Unix time at which each set of adapters was last in use. Keys are names joined by commas."""
    prompt_tokens_per_s: float = 0.0
    generation_tokens_per_s: float = 0.0
