"""The worst cell of every card: where one of our strategies compares worst with another scheduler.

A cell is a scenario and a measure. Tokens a second count only in closed loops: in an open loop, arrivals set them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table

from simulator.experiment.measures import LOWER_IS_BETTER, Measures, estimate, values_of
from simulator.experiment.report import Verdict, compare, difference_of
from simulator.experiment.runner import Results
from simulator.schedulers.registry import LEAST_REQUEST, WEIGHTED_SCORERS
from simulator.workload.scenario import Closed, Generated, Scenario

OTHERS = (LEAST_REQUEST, WEIGHTED_SCORERS)
"""The schedulers that ours are compared with."""

COMPARED = {
    "ttft_p90_s": "TTFT p90",
    "tpot_p90_s": "TPOT p90",
    "e2e_p90_s": "e2e p90",
    "goodput_per_s": "goodput",
}
CLOSED_LOOP = {"tokens_per_s": "tokens/s"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One measure of a scenario: one of our strategies against another scheduler."""

    scenario: Scenario
    ours: str
    other: str
    measure: str
    title: str
    ratio: float
    """Ours to the other's."""
    half_width: float
    """Half of the 95 % interval of the ratio, from the differences seed by seed."""
    verdict: Verdict

    @property
    def card(self) -> str:
        return self.scenario.fleet[0].card

    @property
    def loss(self) -> float:
        """How many times as bad ours is. Above 1 is worse, whatever the measure."""
        if self.measure in LOWER_IS_BETTER:
            return self.ratio
        return 1 / self.ratio if self.ratio else float("inf")

    @property
    def is_worse(self) -> bool:
        return self.verdict is Verdict.WORSE


def cells(scenarios: Sequence[Scenario], results: Results, ours: Sequence[str]) -> Iterator[Cell]:
    """All cells of our strategies against `OTHERS`, as far as they ran."""
    for scenario in scenarios:
        rows = results[scenario.name]
        for name in ours:
            for other in OTHERS:
                if name in rows and other in rows:
                    yield from _cells(scenario, name, other, rows)


def _cells(scenario: Scenario, name: str, other: str, rows: Mapping[str, Sequence[Measures]]) -> Iterator[Cell]:
    workload = scenario.workload
    closed = isinstance(workload, Generated) and isinstance(workload.arrivals, Closed)
    for measure, title in (COMPARED | CLOSED_LOOP if closed else COMPARED).items():
        theirs = estimate(values_of(rows[other], measure)).mean
        if not theirs:
            # Nothing of the other is good: ours cannot be worse.
            continue
        own = estimate(values_of(rows[name], measure)).mean
        half_width = difference_of(measure, rows[name], rows[other]).half_width / theirs
        verdict = compare(measure, rows[name], rows[other])
        yield Cell(scenario, name, other, measure, title, own / theirs, half_width, verdict)


def worst(of: Sequence[Cell]) -> Cell:
    """The cell with the largest loss among those that are worse beyond the interval, else among all."""
    return max(of, key=lambda cell: (cell.is_worse, cell.loss))


def print_worst(of: Sequence[Cell], kinds: Mapping[str, str], console: Console) -> None:
    """Prints the worst cell of every strategy, other scheduler and card. `kinds` names what a card was used for."""
    title = "\nWorst cell of every card: ratios; - worse beyond the 95 % interval. Loss above 1 is worse."
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for column in ("strategy", "against", "card", "used for", "scenario", "measure"):
        table.add_column(column, no_wrap=True)
    for column in ("ratio", "interval", "loss", "worse cells"):
        table.add_column(column, justify="right", no_wrap=True)
    for (ours, other, card), group in groupby(_sorted(of), _key):
        among = list(group)
        cell = worst(among)
        table.add_row(
            ours,
            other,
            card,
            kinds.get(card, ""),
            cell.scenario.name.removeprefix(f"{card}/"),
            cell.title,
            f"[red]{cell.ratio:.3f}-[/]" if cell.is_worse else f"{cell.ratio:.3f} ",
            f"±{cell.half_width:.3f}",
            f"{cell.loss:.3f}",
            f"{sum(other.is_worse for other in among)} of {len(among)}",
        )
    console.print(table)
    failed = sorted((cell for cell in of if cell.is_worse), key=lambda cell: -cell.loss)
    console.print(f"\n{len(failed)} of {len(of)} cells are worse beyond the interval.")
    for cell in failed:
        console.print(
            f"  {cell.ours} / {cell.other}: {cell.scenario.name} {cell.title} {cell.ratio:.3f} ±{cell.half_width:.3f}",
            highlight=False,
        )


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.ours, cell.other, cell.card


def _sorted(of: Sequence[Cell]) -> list[Cell]:
    return sorted(of, key=_key)
