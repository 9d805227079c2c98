"""Sensitivity of DEFAULT to its weights: each at half and at twice its value (`--sensitivity`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import mean

from picker.resources.inference import RoutingStrategy
from rich.console import Console

from simulator.experiment.measures import Measures, estimate
from simulator.experiment.runner import Results
from simulator.schedulers.registry import FACTORS, WEIGHTS, variant_name

COMPARED = (
    ("ttft_p90_s", "TTFT p90"),
    ("tpot_p90_s", "TPOT p90"),
    ("e2e_p90_s", "e2e p90"),
    ("goodput_per_s", "goodput"),
)
DEFAULT = RoutingStrategy.DEFAULT.value


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio to DEFAULT with its own weights: the geometric mean over scenarios, its 95 % interval over seeds, and the
    scenario that is furthest from 1."""

    mean: float
    low: float
    high: float
    extreme: float
    scenario: str

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}-{self.high:.3f})"


def weight_schedulers() -> list[str]:
    """The schedulers that `--sensitivity` compares."""
    return [DEFAULT, *(variant_name(weight, factor) for weight in WEIGHTS for factor in FACTORS)]


def ratio_to_default(results: Results, scheduler: str, measure: str) -> Ratio:
    """Compares `scheduler` with DEFAULT, seed by seed. A scenario in which a measure is 0 is left out."""
    by_scenario = {
        scenario: ratios
        for scenario, rows in results.items()
        if (ratios := _log_ratios(rows[scheduler], rows[DEFAULT], measure)) is not None
    }
    by_seed = [mean(ratios) for ratios in zip(*by_scenario.values(), strict=True)]
    found = estimate(by_seed)
    means = {scenario: mean(ratios) for scenario, ratios in by_scenario.items()}
    extreme = max(means, key=lambda scenario: abs(means[scenario]))
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return Ratio(exp(found.mean), exp(low), exp(high), exp(means[extreme]), extreme)


def print_sensitivity(results: Results, path: Path | None, console: Console) -> None:
    """Prints the table of all weights in Markdown, and writes it to `path`. Raises OSError."""
    lines = list(_lines(results))
    console.print("\n".join(lines), markup=False)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def _lines(results: Results) -> Iterator[str]:
    yield f"| weight | times | {' | '.join(title for _, title in COMPARED)} | furthest |"
    yield f"|---|---:|{'---:|' * len(COMPARED)}---|"
    for weight in WEIGHTS:
        for factor in FACTORS:
            ratios = {
                title: ratio_to_default(results, variant_name(weight, factor), measure) for measure, title in COMPARED
            }
            title, furthest = max(ratios.items(), key=lambda item: abs(log(item[1].extreme)))
            cells = " | ".join(map(str, ratios.values()))
            yield f"| `{weight}` | {factor:g} | {cells} | {title} {furthest.extreme:.2f} in {furthest.scenario} |"


def _log_ratios(ours: Sequence[Measures], theirs: Sequence[Measures], measure: str) -> list[float] | None:
    pairs = [(getattr(a, measure), getattr(b, measure)) for a, b in zip(ours, theirs, strict=True)]
    return [log(a / b) for a, b in pairs] if all(a > 0 and b > 0 for a, b in pairs) else None
