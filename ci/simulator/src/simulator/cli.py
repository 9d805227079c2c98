"""`picker simulate`: runs schedulers on scenarios, in virtual time."""

import argparse
import os
import sys
from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from time import monotonic

from picker.resources.inference import RoutingStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from simulator.experiment.markdown import write_markdown
from simulator.experiment.report import print_summary, print_tables, write_json
from simulator.experiment.runner import Experiment, Results, run_experiment
from simulator.experiment.sensitivity import print_sensitivity, variants
from simulator.schedulers.registry import SCHEDULERS
from simulator.workload.scenario import InvalidScenario, Scenario, Trace, read_scenario
from simulator.workload.traces import trace_file

TABLE_WIDTH = 230
SECONDS_BETWEEN_LINES = 10.0
TRACES = Path(__file__).parents[2] / "traces"
"""Folder of the project's traces. The simulator runs from its source tree only."""
OURS = (RoutingStrategy.DEFAULT.value, RoutingStrategy.PREFIX_CACHE.value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns exit status 1 if there is no scenario to run, 2 on wrong usage."""
    given = _parser().parse_args(arguments)
    # Wider than most terminals: a wrapped line is better than a truncated figure.
    console = Console(soft_wrap=True, width=TABLE_WIDTH)
    try:
        scenarios = [_overridden(read_scenario(path), given) for path in _files(given.scenarios)]
    except (InvalidScenario, OSError) as error:
        print(f"picker simulate: {error}", file=sys.stderr)
        return 2
    scenarios = [scenario for scenario in scenarios if _has_trace(scenario, given.traces)]
    if not scenarios:
        print("picker simulate: no scenario to run", file=sys.stderr)
        return 1
    varied = list(variants(scenarios)) if given.losses else scenarios
    results = _run(Experiment(varied, given.strategies, given.seeds, given.traces), given.jobs)
    if given.losses:
        print_sensitivity(results, scenarios, given.strategies, console)
    else:
        print_tables(results, console)
        print_summary(results, [name for name in OURS if name in given.strategies], console)
    if given.json is not None:
        write_json(results, given.json)
        console.print(f"The figures of every seed are in {given.json}.")
    if given.markdown is not None:
        write_markdown(results, OURS, given.markdown)
        console.print(f"Markdown tables are in {given.markdown}.")
    if given.plots is not None:
        # Imported here: matplotlib takes a second to load.
        from simulator.experiment.plots import plot_all

        written = plot_all(results, OURS, given.plots)
        console.print(f"{len(written)} plots are in {given.plots}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("picker simulate", description="Run schedulers on scenarios, in virtual time.")
    parser.add_argument("scenarios", nargs="+", type=Path, metavar="SCENARIO", help="a YAML file, or a folder of them")
    parser.add_argument(
        "--seeds", type=_positive, default=5, help="runs of each scenario, each with its own load (%(default)s)"
    )
    parser.add_argument(
        "--strategies",
        type=_strategies,
        default=list(SCHEDULERS),
        metavar="NAME[,NAME...]",
        help=f"of {', '.join(SCHEDULERS)} (all)",
    )
    parser.add_argument("--traces", type=Path, default=TRACES, help="folder of traces (ci/simulator/traces)")
    parser.add_argument("--pickers", type=_positive, help="replicas of the picker (default: the scenario's)")
    parser.add_argument(
        "--exchange",
        type=_seconds,
        metavar="S",
        help="minimum seconds between two reports of a picker to the others (default: the scenario's)",
    )
    parser.add_argument("--scrape-interval", type=_seconds, metavar="S", help="seconds (default: the scenario's)")
    parser.add_argument(
        "--losses", action="store_true", help="compare 1, 2 and 4 pickers, and scrapes every 0.2, 1 and 5 s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables of docs/scheduling.md")
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


def _overridden(scenario: Scenario, given: argparse.Namespace) -> Scenario:
    if given.pickers is not None:
        scenario = scenario.model_copy(update={"pickers": given.pickers})
    if given.exchange is not None:
        scenario = scenario.model_copy(update={"exchange_s": given.exchange})
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


def _run(experiment: Experiment, jobs: int) -> Results:
    """Runs the experiment with a progress bar, or with a line every `SECONDS_BETWEEN_LINES` without a terminal."""
    if not sys.stderr.isatty():
        begun_s = printed_s = monotonic()

        def print_line(done: int, total: int, last: str) -> None:
            nonlocal printed_s
            now_s = monotonic()
            if now_s - printed_s >= SECONDS_BETWEEN_LINES or done == total:
                printed_s = now_s
                print(f"{done}/{total} after {now_s - begun_s:.0f} s, last {last}", file=sys.stderr, flush=True)

        return run_experiment(experiment, jobs, print_line)
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting")

        def progress(done: int, total: int, last: str) -> None:
            bar.update(task, completed=done, total=total, description=last)

        return run_experiment(experiment, jobs, progress)
