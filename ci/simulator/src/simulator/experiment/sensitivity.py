"""What is lost when several pickers share a fleet, and when scrapes come more rarely."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import isnan, nan
from statistics import geometric_mean

from rich.console import Console
from rich.table import Table

from simulator.experiment.experiment import Results
from simulator.experiment.measures import estimate
from simulator.workload.scenario import Scenario

PICKERS = (1, 2, 4)
INTERVALS_S = (0.2, 1.0, 5.0)
MEASURES = (("ttft_p90_s", "TTFT p90"), ("goodput_per_s", "goodput"), ("tokens_per_s", "tokens/s"))


def variants(scenarios: Sequence[Scenario]) -> Iterator[Scenario]:
    """Each scenario with every number of pickers and interval of scrapes."""
    for scenario, (pickers, interval_s) in product(scenarios, product(PICKERS, INTERVALS_S)):
        name = _name(scenario.name, pickers, interval_s)
        yield scenario.scraped_every(interval_s).model_copy(update={"name": name, "pickers": pickers})


def print_losses(results: Results, scenarios: Sequence[Scenario], strategies: Sequence[str], console: Console) -> None:
    """A table for each strategy and measure: what one picker with the shortest interval has, and the others as ratios
    to that."""
    for strategy, (measure, title) in product(strategies, MEASURES):
        table = Table(
            title=f"\n{strategy}: {title}, as ratios to one picker and scrapes every {INTERVALS_S[0]} s",
            title_justify="left",
            box=None,
            padding=(0, 1),
        )
        table.add_column("scenario", no_wrap=True)
        for pickers, interval_s in product(PICKERS, INTERVALS_S):
            table.add_column(f"{pickers} picker{'s' * (pickers > 1)}\n{interval_s:g} s", justify="right", no_wrap=True)
        all_ratios: list[list[float]] = []
        for scenario in scenarios:
            first, *others = [
                estimate([getattr(each, measure) for each in results[_name(scenario.name, *variant)][strategy]]).mean
                for variant in product(PICKERS, INTERVALS_S)
            ]
            ratios = [each / first if first else nan for each in others]
            all_ratios.append(ratios)
            table.add_row(scenario.name, f"{first:.2f}", *map(_shown, ratios))
        means = [_geometric_mean(column) for column in zip(*all_ratios, strict=True)]
        table.add_row("geometric mean", "", *map(_shown, means))
        console.print(table)
    console.print(
        "\nPickers share nothing here, and each is asked (picker.spread=true). As the chart installs them one is asked "
        "and the others stand by: what they lose then is in the columns of 1 picker."
    )


def _geometric_mean(ratios: Iterable[float]) -> float:
    """Of those that are positive; a figure may be 0 in a scenario."""
    positive = [each for each in ratios if each > 0]
    return geometric_mean(positive) if positive else nan


def _shown(ratio: float) -> str:
    return "-" if isnan(ratio) else f"{ratio:.2f}"


def _name(scenario: str, pickers: int, interval_s: float) -> str:
    return f"{scenario}, {pickers} pickers, scrapes every {interval_s:g} s"
