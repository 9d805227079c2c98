"""`picker simulate`: runs schedulers on scenarios, in virtual time."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import inf, nan
from pathlib import Path
from time import monotonic
from typing import TypeVar

from picker.resources.inference import RoutingStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from simulator.bound.comparison import compare_all, print_bounds, small_scenarios
from simulator.experiment.losses import print_losses, variants
from simulator.experiment.markdown import write_markdown
from simulator.experiment.report import print_summary, print_tables, write_json
from simulator.experiment.runner import Experiment, Results, run_experiment
from simulator.experiment.sensitivity import print_sensitivity, weight_schedulers
from simulator.matrix.description import Split, read_matrix, selected
from simulator.matrix.worst_cells import OTHERS, cells, print_worst
from simulator.schedulers.registry import SCHEDULERS
from simulator.workload.scenario import InvalidScenario, Scenario, Trace, read_scenario
from simulator.workload.traces import trace_file

Found = TypeVar("Found")
Progressed = Callable[[int, int, str], None]
"""Gets the number of ended cells, their total, and the last one."""

TABLE_WIDTH = 230
SECONDS_BETWEEN_LINES = 10.0
TRACES = Path(__file__).parents[2] / "traces"
"""Folder of the project's traces. The simulator runs from its source tree only."""
MATRIX = Path(__file__).parents[2] / "matrix.yaml"
NO_SCENARIO = "picker simulate: no scenario to run"
OURS = (RoutingStrategy.DEFAULT.value, RoutingStrategy.PREFIX_CACHE.value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns exit status 1 if there is no scenario to run or `--check` finds a cell that is worse, 2 on wrong usage."""
    given = _parser().parse_args(arguments)
    # Wider than most terminals: a wrapped line is better than a truncated figure.
    console = Console(soft_wrap=True, width=TABLE_WIDTH)
    try:
        if given.bound:
            return _bound(given, console)
        scenarios, kinds, first_seed = _scenarios(given)
    except (InvalidScenario, OSError) as error:
        print(f"picker simulate: {error}", file=sys.stderr)
        return 2
    scenarios = [scenario for scenario in scenarios if _has_trace(scenario, given.traces)]
    if not scenarios:
        print(NO_SCENARIO, file=sys.stderr)
        return 1
    if given.sensitivity:
        experiment = Experiment(scenarios, weight_schedulers(), given.seeds, given.traces, first_seed)
        results = _with_progress(partial(run_experiment, experiment, given.jobs))
        print_sensitivity(results, given.markdown, console)
        _write_json(given, results, console)
        return 0
    varied = list(variants(scenarios)) if given.losses else scenarios
    strategies = given.strategies or ([*OURS, *OTHERS] if given.matrix is not None else list(SCHEDULERS))
    experiment = Experiment(varied, strategies, given.seeds, given.traces, first_seed)
    results = _with_progress(partial(run_experiment, experiment, given.jobs))
    if given.losses:
        print_losses(results, scenarios, strategies, console)
    else:
        print_tables(results, console)
        print_summary(results, [name for name in OURS if name in strategies], console)
    found = list(cells(scenarios, results, OURS)) if not given.losses else []
    if given.matrix is not None or given.check:
        print_worst(found, kinds, console)
    _write_json(given, results, console)
    if given.markdown is not None:
        write_markdown(results, OURS, given.markdown)
        console.print(f"Markdown tables are in {given.markdown}.")
    if given.plots is not None:
        # Imported here: matplotlib takes a second to load.
        from simulator.experiment.plots import plot_all

        written = plot_all(results, OURS, given.plots)
        console.print(f"{len(written)} plots are in {given.plots}.")
    return int(given.check and any(cell.is_worse for cell in found))


def _write_json(given: argparse.Namespace, results: Results, console: Console) -> None:
    if given.json is not None:
        write_json(results, given.json)
        console.print(f"The figures of every seed are in {given.json}.")


def _bound(given: argparse.Namespace, console: Console) -> int:
    """Compares with lower bounds and a clairvoyant search. Raises InvalidScenario, OSError."""
    matrix = read_matrix(given.matrix or MATRIX)
    scenarios = list(small_scenarios(matrix, given.split, given.only))
    if not scenarios:
        print(NO_SCENARIO, file=sys.stderr)
        return 1
    first_seed = matrix.seed_of(given.split)
    seeds = range(first_seed, first_seed + given.seeds)
    print_bounds(_with_progress(partial(compare_all, scenarios, seeds, given.jobs)), console)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("picker simulate", description="Run schedulers on scenarios, in virtual time.")
    parser.add_argument("scenarios", nargs="*", type=Path, metavar="SCENARIO", help="a YAML file, or a folder of them")
    parser.add_argument(
        "--matrix",
        type=Path,
        nargs="?",
        const=MATRIX,
        metavar="FILE",
        help="run the scenario matrix of this file, and print the worst cell of every card (ci/simulator/matrix.yaml)",
    )
    parser.add_argument(
        "--split",
        type=Split,
        choices=list(Split),
        default=Split.FIT,
        help="of the matrix: the cards and seeds for fitting, or all cards with seeds that are held out (%(default)s)",
    )
    parser.add_argument(
        "--only", default="*", metavar="PATTERN[,PATTERN...]", help="only scenarios of these names (%(default)s)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 if DEFAULT or PREFIX_CACHE is worse than least request or the weighted scorers in any cell",
    )
    parser.add_argument(
        "--seeds", type=_positive, default=5, help="runs of each scenario, each with its own load (%(default)s)"
    )
    parser.add_argument(
        "--strategies",
        type=_strategies,
        metavar="NAME[,NAME...]",
        help=f"of {', '.join(SCHEDULERS)} (all; for --matrix those that --check compares)",
    )
    parser.add_argument("--traces", type=Path, default=TRACES, help="folder of traces (ci/simulator/traces)")
    parser.add_argument("--pickers", type=_positive, help="replicas of the picker (default: the scenario's)")
    parser.add_argument(
        "--exchange",
        type=_seconds,
        metavar="S",
        help="minimum seconds between two reports of a picker to the others (default: the scenario's)",
    )
    parser.add_argument(
        "--scrape-interval", type=_seconds, metavar="S", help="constant, in seconds (default: by the scenario's pages)"
    )
    parser.add_argument(
        "--page-time",
        type=_seconds,
        metavar="S",
        help="seconds of a server for a page of metrics, on which scrape intervals depend (default: the scenario's)",
    )
    parser.add_argument(
        "--losses", action="store_true", help="compare 1, 2 and 4 pickers, and scrapes every 0.2, 1 and 5 s"
    )
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="compare DEFAULT with each of its weights at half and at twice its value",
    )
    parser.add_argument(
        "--bound",
        action="store_true",
        help="compare with lower bounds and a clairvoyant search, on small fleets of the matrix's cards",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables of docs/results.md")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw a plot of each scenario")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes (%(default)s)")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"allowed are whole numbers from 1 on, found {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not 0 < seconds < inf:
        raise argparse.ArgumentTypeError(f"allowed are seconds above 0, found {text}")
    return seconds


def _strategies(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SCHEDULERS:
            raise argparse.ArgumentTypeError(f"no strategy {name!r}; allowed are {', '.join(SCHEDULERS)}")
    return names


def _files(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]


def _scenarios(given: argparse.Namespace) -> tuple[list[Scenario], dict[str, str], int]:
    """The scenarios to run, what each card is used for, and the first seed. Raises InvalidScenario, OSError."""
    scenarios = [read_scenario(path) for path in _files(given.scenarios)]
    kinds: dict[str, str] = {}
    first_seed = 0
    if given.matrix is not None:
        matrix = read_matrix(given.matrix)
        first_seed = matrix.seed_of(given.split)
        scenarios += matrix.scenarios(given.split, given.only)
        kinds = {card: matrix.usage_of(card, given.split) for card in matrix.cards_of(given.split)}
    kept = [scenario for scenario in scenarios if selected(scenario.name, given.only)]
    return [_overridden(scenario, given) for scenario in kept], kinds, first_seed


def _overridden(scenario: Scenario, given: argparse.Namespace) -> Scenario:
    if given.pickers is not None:
        scenario = scenario.model_copy(update={"pickers": given.pickers})
    if given.exchange is not None:
        scenario = scenario.model_copy(update={"exchange_s": given.exchange})
    if given.page_time is not None:
        scenario = scenario.scraped_at_cost(given.page_time)
    if given.scrape_interval is not None:
        scenario = scenario.scraped_every(given.scrape_interval)
    return scenario


def _has_trace(scenario: Scenario, traces: Path) -> bool:
    workload = scenario.workload
    if isinstance(workload, Trace):
        try:
            trace_file(workload, traces)
        except FileNotFoundError:
            print(f"{scenario.name} is skipped: no {traces / workload.path}[.gz] (see --traces).", file=sys.stderr)
            return False
    return True


def _with_progress(run: Callable[[Progressed], Found]) -> Found:
    """Calls `run` with a progress bar, or with a line every `SECONDS_BETWEEN_LINES` without a terminal."""
    if not sys.stderr.isatty():
        begun_s = printed_s = monotonic()

        def print_line(done: int, total: int, last: str) -> None:
            nonlocal printed_s
            now_s = monotonic()
            if now_s - printed_s >= SECONDS_BETWEEN_LINES or done == total:
                printed_s = now_s
                print(f"{done}/{total} after {now_s - begun_s:.0f} s, last {last}", file=sys.stderr, flush=True)

        return run(print_line)
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting")

        def progress(done: int, total: int, last: str) -> None:
            bar.update(task, completed=done, total=total, description=last)

        return run(progress)
