"""The `gateway-order` command."""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files

import httpx
import uvloop
from benchmark.load.run import Progress
from benchmark.progress import shown_progress
from benchmark.tokens.tokenizer import find_tokenizer
from picker.resources.inference import RoutingStrategy
from rich.console import Console
from rich.table import Table
from simulator.workload.scenario import Scenario, read_scenario

from e2e.local_gateway import MODEL, NotReady, ProcessFailed
from e2e.processes import interruptible
from e2e.strategy_order.loads import workload_of
from e2e.strategy_order.runs import STRATEGIES, Latency, RequestsFailed, gateway_for, simulated, through_envoy
from e2e.strategy_order.verdict import CLOSE, Agreement, agreement

TIME_SCALES: Mapping[str, float] = {"random": 3.0, "tenants": 2.5, "mixed-fleet": 3.0}
"""Speed-up by scenario. Judgement: the highest at which two cores stream its responses."""
_WIDTH = 130
_Figures = Mapping[str, Latency]
"""Latency by strategy."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits 0 if no two strategies are in opposite orders, 2 on wrong usage, 130 on Ctrl-C.

    Exits 1 if two strategies are in opposite orders, or a part did not start.
    """
    parser = argparse.ArgumentParser(
        "gateway-order",
        description="Runs the picker's strategies under the same load in the simulator and, with mocks, through a real "
        "Envoy. Reports whether their orders agree.",
    )
    parser.add_argument(
        "--only", action="append", choices=tuple(TIME_SCALES), help="scenario to run; may be repeated (default: all)"
    )
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            opposite = runner.run(interruptible(_run(given.only or tuple(TIME_SCALES), console)))
    except (ProcessFailed, NotReady, RequestsFailed, httpx.TransportError) as error:
        console.print(f"[red]Stopped:[/red] {error}")
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        sys.exit(130)
    sys.exit(1 if opposite else 0)


async def _run(names: Sequence[str], console: Console) -> int:
    """Returns the number of pairs in opposite orders."""
    opposite = 0
    for name in names:
        scenario = _scenario(name)
        console.print(f"\n[bold]{name}[/bold]: {scenario.description}")
        in_simulator = {strategy.value: simulated(scenario, strategy) for strategy in STRATEGIES}
        with_envoy = await _measured(scenario, TIME_SCALES[name], console)
        found = agreement(
            *({strategy: latency.p90_s for strategy, latency in side.items()} for side in (in_simulator, with_envoy))
        )
        console.print(_table(in_simulator, with_envoy))
        _print_agreement(found, console)
        opposite += len(found.opposite)
    return opposite


def _scenario(name: str) -> Scenario:
    with as_file(files("e2e.strategy_order") / "scenarios" / f"{name}.yaml") as path:
        return read_scenario(path)


async def _measured(scenario: Scenario, time_scale: float, console: Console) -> _Figures:
    workload = workload_of(scenario, 0, find_tokenizer(MODEL, None).words)
    figures: dict[str, Latency] = {}
    async with gateway_for(scenario, time_scale) as gateway:
        with shown_progress(console) as show_progress:
            for strategy in STRATEGIES:

                def on_progress(progress: Progress, strategy: RoutingStrategy = strategy) -> None:
                    show_progress(f"{scenario.name}, {strategy.value}", progress.done, progress.total, progress.failed)

                figures[strategy.value] = await through_envoy(
                    gateway, scenario, workload, strategy, time_scale, on_progress
                )
        gateway.check()
    return figures


def _table(in_simulator: _Figures, with_envoy: _Figures) -> Table:
    """Latencies and ranks on both sides, in the simulator's order."""
    table = Table(title="TTFT in the servers' seconds", title_justify="left")
    table.add_column("strategy")
    for side in ("simulator", "Envoy"):
        for column in (f"{side}, p50", "p90", "rank"):
            table.add_column(column, justify="right")
    orders = [sorted(side, key=lambda name, side=side: side[name].p90_s) for side in (in_simulator, with_envoy)]
    for name in orders[0]:
        cells = [name]
        for side, order in zip((in_simulator, with_envoy), orders, strict=True):
            cells += [f"{side[name].p50_s:.2f}", f"{side[name].p90_s:.2f}", str(order.index(name) + 1)]
        table.add_row(*cells)
    return table


def _print_agreement(found: Agreement, console: Console) -> None:
    pairs = len(found.same) + len(found.close) + len(found.opposite)
    console.print(
        f"By p90, {len(found.same)} of {pairs} pairs are in the same order on both sides. {len(found.close)} pairs are "
        f"less than {CLOSE - 1:.0%} apart on a side. {len(found.opposite)} pairs are in opposite orders.",
        soft_wrap=True,
    )
    for better, worse in found.opposite:
        console.print(f"  {better} is better than {worse} in the simulator, and worse through Envoy.")
