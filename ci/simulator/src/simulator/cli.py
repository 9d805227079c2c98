"""`picker simulate`: strategies against scenarios, in virtual time."""

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

from simulator.experiment.experiment import Results, Study, run_study
from simulator.experiment.markdown import write_markdown
from simulator.experiment.report import print_summary, print_tables, write_json
from simulator.experiment.sensitivity import print_losses, variants
from simulator.schedulers.registry import CONTENDERS
from simulator.workload.scenario import InvalidScenario, Scenario, Trace, read_scenario
from simulator.workload.traces import trace_file

TABLE_WIDTH = 230
SECONDS_BETWEEN_LINES = 10.0
TRACES = Path(__file__).parents[2] / "traces"
"""The project's own: the simulator runs from its source tree only."""
OURS = (RoutingStrategy.DEFAULT.value, RoutingStrategy.PREFIX_CACHE.value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. The exit status: 1 when nothing could be run, 2 on wrong usage."""
    given = _parser().parse_args(arguments)
    # Wider than most terminals: a line that wraps is better than a figure that is cut.
    console = Console(soft_wrap=True, width=TABLE_WIDTH)
    try:
        scenarios = [_overridden(read_scenario(path), given) for path in _files(given.scenarios)]
    except (InvalidScenario, OSError) as error:
        print(f"picker simulate: {error}", file=sys.stderr)
        return 2
    scenarios = [each for each in scenarios if _has_trace(each, given.traces)]
    if not scenarios:
        print("picker simulate: no scenario to run", file=sys.stderr)
        return 1
    varied = list(variants(scenarios)) if given.losses else scenarios
    results = _run(Study(varied, given.strategies, given.seeds, given.traces), given.jobs)
    if given.losses:
        print_losses(results, scenarios, given.strategies, console)
    else:
        print_tables(results, console)
        print_summary(results, [name for name in OURS if name in given.strategies], console)
    if given.json is not None:
        write_json(results, given.json)
        console.print(f"Every seed's figures are in {given.json}.")
    if given.markdown is not None:
        write_markdown(results, OURS, given.markdown)
        console.print(f"Tables for a page are in {given.markdown}.")
    if given.plots is not None:
        # matplotlib takes a second to import.
        from simulator.experiment.plots import plot_all

        written = plot_all(results, OURS, given.plots)
        console.print(f"{len(written)} plots are in {given.plots}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("picker simulate", description="Strategies against scenarios, in virtual time.")
    parser.add_argument("scenarios", nargs="+", type=Path, metavar="SCENARIO", help="a YAML file, or a folder of them")
    parser.add_argument(
        "--seeds", type=_positive, default=5, help="runs of each, with loads of their own (%(default)s)"
    )
    parser.add_argument(
        "--strategies",
        type=_strategies,
        default=list(CONTENDERS),
        metavar="NAME[,NAME...]",
        help=f"of {', '.join(CONTENDERS)} (all)",
    )
    parser.add_argument("--traces", type=Path, default=TRACES, help="folder of traces (ci/simulator/traces)")
    parser.add_argument("--pickers", type=_positive, help="replicas of the picker, instead of the scenario's")
    parser.add_argument("--scrape-interval", type=_seconds, metavar="S", help="instead of the scenario's")
    parser.add_argument(
        "--losses", action="store_true", help="with 1, 2 and 4 pickers and scrapes every 0.2, 1 and 5 s, side by side"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables of docs/scheduling.md there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw a picture of each scenario there")
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
        if name not in CONTENDERS:
            raise argparse.ArgumentTypeError(f"no strategy {name!r}; allowed are {', '.join(CONTENDERS)}")
    return names


def _files(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]


def _overridden(scenario: Scenario, given: argparse.Namespace) -> Scenario:
    if given.pickers is not None:
        scenario = scenario.model_copy(update={"pickers": given.pickers})
    if given.scrape_interval is not None:
        scenario = scenario.scraped_every(given.scrape_interval)
    return scenario


def _has_trace(scenario: Scenario, traces: Path) -> bool:
    workload = scenario.workload
    if isinstance(workload, Trace):
        try:
            trace_file(workload, traces)
        except FileNotFoundError:
            print(f"{scenario.name} is left out: no {traces / workload.path}[.gz] (see --traces).", file=sys.stderr)
            return False
    return True


def _run(study: Study, jobs: int) -> Results:
    """With a bar, or a line now and then where there is no terminal to draw it on."""
    if not sys.stderr.isatty():
        begun_s = said_s = monotonic()

        def say(done: int, total: int, last: str) -> None:
            nonlocal said_s
            now_s = monotonic()
            if now_s - said_s >= SECONDS_BETWEEN_LINES or done == total:
                said_s = now_s
                print(f"{done}/{total} after {now_s - begun_s:.0f} s, last {last}", file=sys.stderr, flush=True)

        return run_study(study, jobs, say)
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting")

        def progress(done: int, total: int, last: str) -> None:
            bar.update(task, completed=done, total=total, description=last)

        return run_study(study, jobs, progress)
