"""The figures of both ports, and their ratio."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean

from rich.table import Table

from e2e.vllm_cpu.load import BenchResult


@dataclass(frozen=True, slots=True)
class ServerUse:
    """What one server did during a leg."""

    prompt_tokens: float
    cached_tokens: float
    """Of `prompt_tokens`, those that its prefix cache held."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One port's part of a round."""

    result: BenchResult
    servers: tuple[ServerUse, ...]

    @property
    def hit_ratio(self) -> float:
        """Share of the prompt tokens that were cached. NaN without prompts."""
        total = sum(server.prompt_tokens for server in self.servers)
        return sum(server.cached_tokens for server in self.servers) / total if total else math.nan

    @property
    def largest_share(self) -> float:
        """Share of the prompt tokens that the busiest server was sent. NaN without prompts."""
        total = sum(server.prompt_tokens for server in self.servers)
        return max(server.prompt_tokens for server in self.servers) / total if total else math.nan


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    of: Callable[[Leg], float]
    decimals: int = 1


FIGURES = (
    Figure("TTFT p50 (ms)", lambda leg: leg.result.p50_ttft_ms),
    Figure("TTFT p90 (ms)", lambda leg: leg.result.p90_ttft_ms),
    Figure("TPOT p50 (ms)", lambda leg: leg.result.p50_tpot_ms),
    Figure("TPOT p90 (ms)", lambda leg: leg.result.p90_tpot_ms),
    Figure("requests/s", lambda leg: leg.result.request_throughput),
    Figure("output tokens/s", lambda leg: leg.result.output_throughput),
    Figure("prefix cache hits (%)", lambda leg: 100 * leg.hit_ratio),
    Figure("busiest server's share (%)", lambda leg: 100 * leg.largest_share),
)


def ratios(figure: Figure, plain: Sequence[Leg], picked: Sequence[Leg]) -> Sequence[float]:
    """The picked port's figure over the plain port's, round by round. Rounds without a ratio are left out."""
    pairs = [(figure.of(left), figure.of(right)) for left, right in zip(plain, picked, strict=True)]
    return [right / left for left, right in pairs if left > 0 and right > 0]


def figures_table(title: str, plain: Sequence[Leg], picked: Sequence[Leg]) -> Table:
    """Means over the rounds, the geometric mean of the ratios, and the lowest and the highest ratio."""
    table = Table(title=title, title_justify="left")
    for column in ("", "8080 plain", "8081 picker", "ratio", "of rounds"):
        table.add_column(column, justify="right" if column else "left")
    for figure in FIGURES:
        found = ratios(figure, plain, picked)
        table.add_row(
            figure.name,
            *(f"{fmean(map(figure.of, legs)):.{figure.decimals}f}" for legs in (plain, picked)),
            f"{geometric_mean(found):.2f}" if found else "-",
            f"{min(found):.2f}-{max(found):.2f}" if found else "-",
        )
    return table
