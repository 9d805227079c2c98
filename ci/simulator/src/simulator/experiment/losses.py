"""What the strategies lose with more pickers and longer scrape intervals (`--losses`)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import isnan, nan
from statistics import geometric_mean

from rich.console import Console
from rich.table import Table

from simulator.experiment.measures import estimate, values_of
from simulator.experiment.runner import Results
from simulator.workload.scenario import Scenario

PICKERS = (1, 2, 4)
INTERVALS_S = (0.2, 1.0, 5.0)
MEASURES = (("ttft_p90_s", "TTFT p90"), ("goodput_per_s", "goodput"), ("tokens_per_s", "tokens/s"))


def variants(scenarios: Sequence[Scenario]) -> Iterator[Scenario]:
    """Each scenario with every number of pickers and every scrape interval."""
    for scenario, (pickers, interval_s) in product(scenarios, product(PICKERS, INTERVALS_S)):
        name = _name(scenario.name, pickers, interval_s)
        yield scenario.scraped_every(interval_s).model_copy(update={"name": name, "pickers": pickers})


def print_losses(results: Results, scenarios: Sequence[Scenario], strategies: Sequence[str], console: Console) -> None:
    """Prints a table for each strategy and measure. The first column is the value of one picker with the shortest
    interval; the others are ratios to it."""
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
                estimate(values_of(results[_name(scenario.name, *variant)][strategy], measure)).mean
                for variant in product(PICKERS, INTERVALS_S)
            ]
            ratios = [other / first if first else nan for other in others]
            all_ratios.append(ratios)
            table.add_row(scenario.name, f"{first:.2f}", *map(_cell, ratios))
        means = [_geometric_mean(column) for column in zip(*all_ratios, strict=True)]
        table.add_row("geometric mean", "", *map(_cell, means))
        console.print(table)
    exchanges_s = sorted({scenario.exchange_s for scenario in scenarios if scenario.exchange_s is not None})
    shares = (
        f"report to each other at most every {', '.join(f'{each:g}' for each in exchanges_s)} s"
        if exchanges_s
        else "share no state (see --exchange)"
    )
    console.print(
        f"\nRequests go to all of these pickers (picker.spread=true), which {shares}. In the chart's default, one "
        "picker gets all requests and the others are standbys; the columns of 1 picker apply."
    )


def _geometric_mean(ratios: Iterable[float]) -> float:
    """The geometric mean of the positive ratios; NaN if there are none. A measure may be 0 in a scenario."""
    positive = [ratio for ratio in ratios if ratio > 0]
    return geometric_mean(positive) if positive else nan


def _cell(ratio: float) -> str:
    return "-" if isnan(ratio) else f"{ratio:.2f}"


def _name(scenario: str, pickers: int, interval_s: float) -> str:
    return f"{scenario}, {pickers} pickers, scrapes every {interval_s:g} s"
