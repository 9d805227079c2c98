"""`make demo` and `make up`: the tutorial's gateway on this machine."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import httpx
import uvloop
from benchmark.compare.rounds import Comparison, Contender, Plan, compare
from benchmark.compare.table import comparison_table, conclusions
from benchmark.load.pace import Pace
from benchmark.load.target import Target
from benchmark.progress import comparison_progress, shown_progress
from benchmark.replicas.watch import Replica
from benchmark.report.plots import latency_figure, save_kv_usage, save_png
from benchmark.tokens.tokenizer import Tokenizer, find_tokenizer
from rich.console import Console

from e2e.demo_settings import DemoSettings, Load, read_settings
from e2e.local_gateway import (
    ADAPTER,
    MODEL,
    MODELS,
    SECOND_MODEL,
    LocalGateway,
    MockFleet,
    NotReady,
    Ports,
    PortsTaken,
    ProcessFailed,
)
from e2e.processes import interruptible
from e2e.smoke_commands import CurlFailed, curl_command, post_chat

PLAIN, PICKED = "8080", "8081"


@dataclass(frozen=True, slots=True)
class _DemoFailed(Exception):
    """The demo cannot continue. `message` is shown to the user."""

    message: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits 0 if the demo completed, 1 if a part failed or did not start, 2 on wrong usage, 130 on Ctrl-C."""
    settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130, soft_wrap=True)
    command = _up if settings.command == "up" else _run
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(interruptible(command(settings, console)))
    except (PortsTaken, ProcessFailed, NotReady, CurlFailed, httpx.TransportError, _DemoFailed) as error:
        console.print(f"[red]The demo stopped:[/red] {error}", markup=True)
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        sys.exit(0 if settings.command == "up" else 130)


def _gateway(settings: DemoSettings) -> LocalGateway:
    fleet = MockFleet(
        settings.replicas,
        settings.preset,
        settings.time_scale,
        ("--num-gpu-blocks-override", str(settings.kv_blocks)) if settings.kv_blocks else (),
    )
    if not settings.models:
        return LocalGateway((fleet,), Ports.of_the_tutorial(settings.replicas))
    with_adapter = replace(fleet, arguments=(*fleet.arguments, "--enable-lora", "--lora-modules", f"{ADAPTER}=/none"))
    second = replace(fleet, model=SECOND_MODEL, app="llama")
    return LocalGateway((with_adapter, second), Ports.of_the_tutorial(2 * settings.replicas), sources=MODELS)


async def _up(settings: DemoSettings, console: Console) -> None:
    console.print(_starting(settings))
    async with _gateway(settings) as gateway:
        suggestions = _model_suggestions() if settings.models else _suggestions(gateway)
        console.print(suggestions, markup=False)
        reported: set[str] = set()
        while True:
            await asyncio.sleep(1)
            # Users may kill model servers. Without the gateway itself the demo cannot continue.
            assert gateway.picker is not None
            gateway.picker.check()
            for name in {mock.name for mock in gateway.mocks if not mock.running} - reported:
                console.print(f"{name} exited. The others keep running.")
                reported.add(name)


def _suggestions(gateway: LocalGateway) -> str:
    pool = gateway.manifests / "inference-pool.yaml"
    annotation = r"annotations: {inference.networking.x-k8s.io\/routing-strategy: PREFIX_CACHE}"
    name = "  name: vllm-qwen-pool"
    return f"""
The gateway is up. Port {PLAIN} is the plain Service. Port {PICKED} uses the endpoint picker.

Send a request:
  {curl_command(int(PICKED), "Los Angeles")}

Send load:
  .venv/bin/benchmark-serving --model {MODEL} --base-url {gateway.picked_url} --dataset-name random \\
    --random-input-len 190 --random-output-len 225 --num-prompts 1000 --max-concurrency 64

Observe it:
  .venv/bin/picker top {gateway.admin_url}
  tail -f {gateway.folder / "gateway.log"}
  curl -X PUT -d debug {gateway.admin_url}/log-level      logs every decision

Change it under load. The manifests are in {gateway.manifests}
  sed -i '0,/{name}/s//{name}\\n  {annotation}/' {pool}
  sed -i 's/name: inference-gateway-ext-proc/&\\n    failureMode: FailOpen/' {pool}
  sed -i '/qwen-3/,$d' {gateway.endpoints_file}

Kill a part:
  kill -9 {gateway.mocks[0].process.pid}                          a model server
  pkill -9 -f 'picker serve'            the picker: it restarts, and a FailOpen pool is served meanwhile

Ctrl-C stops everything."""


def _model_suggestions() -> str:
    def curl(model: str) -> str:
        body = json.dumps({"model": model, "max_tokens": 20, "prompt": "Los Angeles is"})
        return f"curl localhost:{PICKED}/v1/completions -H 'Content-Type: application/json' -d '{body}'"

    return f"""
The gateway is up. Port {PICKED} serves two models and an adapter. The model in the body selects the pool.

Ask one model, the other one, and the adapter of the first:
  {curl(MODEL)}
  {curl(SECOND_MODEL)}
  {curl(ADAPTER)}

Ask for a model that no route serves:
  {curl("unknown")}

List the models, in OpenAI's and in Anthropic's shape:
  curl localhost:{PICKED}/v1/models
  curl localhost:{PICKED}/v1/models -H 'anthropic-version: 2023-06-01'

Ctrl-C stops everything."""


async def _run(settings: DemoSettings, console: Console) -> None:
    console.print(_starting(settings))
    async with _gateway(settings) as gateway:
        for port, city in ((PLAIN, "San Francisco"), (PICKED, "Los Angeles")):
            console.print(f"\n[bold]$ {curl_command(int(port), city)}[/bold]")
            console.print(await post_chat(f"http://127.0.0.1:{port}", city), markup=False)
        tokenizer = find_tokenizer(MODEL, None)
        comparisons = [await _compare(load, settings, gateway, tokenizer, console) for load in settings.loads]
        gateway.check()
        if failed := sum(comparison.failed_requests for comparison in comparisons if comparison.failed):
            raise _DemoFailed(f"{failed} requests failed")


async def _compare(
    load: Load, settings: DemoSettings, gateway: LocalGateway, tokenizer: Tokenizer, console: Console
) -> Comparison:
    """Compares both ports under `load`, prints the result and saves the plots."""
    plan = Plan(
        contenders=(
            Contender(f"port {PLAIN}", Target(gateway.plain_url, MODEL)),
            Contender(f"port {PICKED}", Target(gateway.picked_url, MODEL)),
        ),
        workload=partial(load.workload, tokenizer),
        pace=Pace(max_concurrency=load.concurrency),
        rounds=settings.rounds,
        replicas=tuple(Replica(f"qwen-{number}", f"{url}/metrics") for number, url in enumerate(gateway.mock_urls)),
        interval_s=0.25,
    )
    console.print(f"\n[bold]{load.about}[/bold]")
    console.print(
        f"{plan.rounds} rounds, both ports in turn: {plan.workload(0).name}, {load.concurrency} requests at a time."
    )
    with shown_progress(console) as show_progress:
        comparison = await compare(plan, comparison_progress(show_progress))
    console.print(comparison_table(comparison))
    for sentence in conclusions(comparison):
        console.print(sentence)
    usage, latency = (settings.out / f"{load.name}-{what}.png" for what in ("kv-cache", "latency"))
    save_kv_usage(comparison, usage)
    save_png(latency_figure(comparison), latency)
    console.print(f"KV cache usage of each replica over time, by port: {usage}")
    console.print(f"Latencies: {latency}")
    return comparison


def _starting(settings: DemoSettings) -> str:
    servers = f"{settings.replicas} model servers" + (" of each model" if settings.models else "")
    speed = f", {settings.time_scale:g} times as fast" if settings.time_scale != 1 else ""
    return f"Starting {servers} with the speed of {settings.preset.upper()} cards{speed}, the picker, and Envoy ..."
