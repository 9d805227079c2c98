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
"""By scenario: as fast as two cores stream its answers."""
_WIDTH = 130
_Figures = Mapping[str, Latency]
"""By strategy."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits 0 when no two strategies stand in opposite orders, 1 when some do or a part could not start, 2 on wrong
    usage, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        "gateway-order",
        description="The picker's strategies under the same load in the simulator and, with mocks, through a real "
        "Envoy: do they stand in the same order?",
    )
    parser.add_argument(
        "--only", action="append", choices=tuple(TIME_SCALES), help="a scenario; again for more (default: all)"
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
    """How many pairs stand in opposite orders."""
    opposite = 0
    for name in names:
        scenario = _scenario(name)
        console.print(f"\n[bold]{name}[/bold]: {scenario.description}")
        in_simulator = {strategy.value: simulated(scenario, strategy) for strategy in STRATEGIES}
        behind_envoy = await _measured(scenario, TIME_SCALES[name], console)
        found = agreement(
            *({strategy: each.p90_s for strategy, each in side.items()} for side in (in_simulator, behind_envoy))
        )
        console.print(_table(in_simulator, behind_envoy))
        _tell(found, console)
        opposite += len(found.opposite)
    return opposite


def _scenario(name: str) -> Scenario:
    with as_file(files("e2e.strategy_order") / "scenarios" / f"{name}.yaml") as path:
        return read_scenario(path)


async def _measured(scenario: Scenario, time_scale: float, console: Console) -> _Figures:
    workload = workload_of(scenario, 0, find_tokenizer(MODEL, None).words)
    figures: dict[str, Latency] = {}
    async with gateway_for(scenario, time_scale) as gateway:
        with shown_progress(console) as told:
            for strategy in STRATEGIES:

                def on_progress(progress: Progress, strategy: RoutingStrategy = strategy) -> None:
                    told(f"{scenario.name}, {strategy.value}", progress.done, progress.total, progress.failed)

                figures[strategy.value] = await through_envoy(
                    gateway, scenario, workload, strategy, time_scale, on_progress
                )
        gateway.check()
    return figures


def _table(in_simulator: _Figures, behind_envoy: _Figures) -> Table:
    """Strategies in the simulator's order."""
    table = Table(title="TTFT in the servers' seconds", title_justify="left")
    table.add_column("strategy")
    for side in ("simulator", "Envoy"):
        for column in (f"{side}, p50", "p90", "place"):
            table.add_column(column, justify="right")
    places = [sorted(side, key=lambda name, side=side: side[name].p90_s) for side in (in_simulator, behind_envoy)]
    for name in places[0]:
        cells = [name]
        for side, order in zip((in_simulator, behind_envoy), places, strict=True):
            cells += [f"{side[name].p50_s:.2f}", f"{side[name].p90_s:.2f}", str(order.index(name) + 1)]
        table.add_row(*cells)
    return table


def _tell(found: Agreement, console: Console) -> None:
    pairs = len(found.same) + len(found.close) + len(found.opposite)
    console.print(
        f"By p90, {len(found.same)} of {pairs} pairs stand in the same order on both sides, {len(found.close)} are "
        f"less than {CLOSE - 1:.0%} apart on one of them, {len(found.opposite)} stand in opposite orders.",
        soft_wrap=True,
    )
    for better, worse in found.opposite:
        console.print(f"  In the simulator {better} is better than {worse}, through Envoy worse.")
