"""The `gateway-vllm` command, which `make vllm` runs."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import uvloop
from rich.console import Console

from e2e.local_gateway import LocalGateway, NotReady, ProcessFailed
from e2e.processes import free_ports, interruptible
from e2e.vllm_cpu.comparison import Run, compare
from e2e.vllm_cpu.figures import figures_table
from e2e.vllm_cpu.load import BenchFailed
from e2e.vllm_cpu.model import make_model
from e2e.vllm_cpu.servers import VllmFleet
from e2e.vllm_cpu.settings import VllmSettings, read_settings


class VllmMissing(Exception):
    """vLLM is not installed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits 0 if every request was served and KV events arrived, 2 on wrong usage, 130 on Ctrl-C.

    Exits 1 if a request failed, no KV events arrived, a part exited, or vLLM is not installed.
    """
    settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            problems = runner.run(interruptible(_run(settings, console)))
    except (ProcessFailed, NotReady, VllmMissing, BenchFailed, httpx.HTTPError) as error:
        console.print(f"[red]The comparison stopped:[/red] {error}")
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        sys.exit(130)
    for problem in problems:
        console.print(f"[red]{problem}[/red]")
    sys.exit(1 if problems else 0)


async def _run(settings: VllmSettings, console: Console) -> Sequence[str]:
    """Returns the problems. Raises VllmMissing, ProcessFailed, NotReady, BenchFailed, httpx.HTTPError."""
    if not settings.python.exists():
        raise VllmMissing(f"{settings.python} does not exist: `make vllm` installs vLLM")
    model = settings.out / "model"
    make_model(model)
    console.print(f"Starting {settings.servers} vLLM servers, the picker, and Envoy ...")
    problems: list[str] = []
    async with LocalGateway((_fleet(settings, model),), picker_arguments=_picker_flags(settings)) as gateway:
        try:
            if settings.strategy:
                await gateway.set_strategy(settings.strategy)
            run = Run(settings, gateway, model)
            for load in settings.loads:
                console.print(f"\n[bold]{load.name}[/bold]: {load.about}")
                compared = await compare(run, load, console.print)
                title = f"Rounds: {settings.rounds} of {settings.prompts} requests, {settings.concurrency} at a time"
                console.print(figures_table(title, compared.plain, compared.picked))
                problems += compared.problems
            gateway.check()
        finally:
            _keep_logs(gateway, settings.out)
    console.print(f"Results and logs are in {settings.out}")
    return problems


def _fleet(settings: VllmSettings, model: Path) -> VllmFleet:
    ports = free_ports(2 * settings.servers)
    cores = sorted(os.sched_getaffinity(0))
    return VllmFleet(
        settings.python.absolute(),
        model.absolute(),
        tuple(ports[: settings.servers]),
        tuple(ports[settings.servers :]),
        settings.kv_blocks,
        tuple(cores[index % len(cores)] for index in range(settings.servers)) if settings.pin else (),
    )


def _picker_flags(settings: VllmSettings) -> Sequence[str]:
    """The default port turns KV events on. The servers' labels have the ports that are used."""
    return ["--kv-events-port", "5557"] if settings.kv_events else []


def _keep_logs(gateway: LocalGateway, out: Path) -> None:
    for log in gateway.folder.glob("*.log"):
        (out / log.name).write_bytes(log.read_bytes())
