"""Runs a load through both ports in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from benchmark.replicas.page import read_page

from e2e.local_gateway import LocalGateway
from e2e.processes import LoggedChild
from e2e.vllm_cpu.figures import Leg, ServerUse
from e2e.vllm_cpu.load import BenchFailed, Load, bench_command, read_result
from e2e.vllm_cpu.servers import OFFLINE
from e2e.vllm_cpu.settings import VllmSettings

PORTS = ("8080", "8081")


@dataclass(frozen=True, slots=True)
class Run:
    """A started gateway, and what is sent to it."""

    settings: VllmSettings
    gateway: LocalGateway
    model: Path


@dataclass(slots=True)
class Compared:
    """Legs of one load, round by round."""

    plain: list[Leg] = field(default_factory=list[Leg])
    picked: list[Leg] = field(default_factory=list[Leg])
    problems: list[str] = field(default_factory=list[str])


async def compare(run: Run, load: Load, say: Callable[[str], None]) -> Compared:
    """Runs every round. The order of the ports alternates, so that a drift of the machine favours neither.

    Both ports get the same prompts in a round. All prefix caches are emptied before each leg. Raises BenchFailed,
    httpx.HTTPError."""
    compared = Compared()
    for number in range(run.settings.rounds):
        legs: dict[str, Leg] = {}
        for port in PORTS[::-1] if number % 2 else PORTS:
            legs[port] = leg = await _leg(run, load, port, number)
            say(
                f"  round {number + 1}, port {port}: TTFT p50 {leg.result.p50_ttft_ms:.0f} ms, "
                f"{leg.result.request_throughput:.1f} requests/s"
            )
            compared.problems += await _problems(run, load, port, leg)
        compared.plain.append(legs[PORTS[0]])
        compared.picked.append(legs[PORTS[1]])
    return compared


async def _leg(run: Run, load: Load, port: str, number: int) -> Leg:
    settings, gateway = run.settings, run.gateway
    name = f"{load.name}-{port}-{number + 1}"
    result = settings.out / f"{name}.json"
    result.unlink(missing_ok=True)
    url = gateway.plain_url if port == PORTS[0] else gateway.picked_url
    command = bench_command(
        settings.python.absolute(), run.model, load, url, settings.prompts, settings.concurrency, number, result
    )
    async with httpx.AsyncClient(timeout=30.0) as client:
        for server in gateway.mock_urls:
            (await client.post(f"{server}/reset_prefix_cache")).raise_for_status()
        before = [await _prompt_tokens(client, server) for server in gateway.mock_urls]
        bench = await LoggedChild.start(name, command, settings.out / f"{name}.log", OFFLINE)
        try:
            status = await bench.process.wait()
        finally:
            await bench.stop()
        if status:
            raise BenchFailed(f"vllm bench serve ended with status {status}:\n{bench.last_lines()}")
        after = [await _prompt_tokens(client, server) for server in gateway.mock_urls]
    servers = tuple(ServerUse(end[0] - start[0], end[1] - start[1]) for start, end in zip(before, after, strict=True))
    return Leg(read_result(result), servers)


async def _prompt_tokens(client: httpx.AsyncClient, server: str) -> tuple[float, float]:
    """Prompt tokens that were looked up in the prefix cache, and those that were found."""
    load = read_page((await client.get(f"{server}/metrics")).content)
    return load.prefix_queries, load.prefix_hits


async def _problems(run: Run, load: Load, port: str, leg: Leg) -> Sequence[str]:
    where = f"{load.name}, port {port}"
    missing = run.settings.prompts - leg.result.completed
    problems = [f"{where}: {missing} of {run.settings.prompts} requests failed"] if missing else []
    if run.settings.kv_events:
        async with httpx.AsyncClient(timeout=5.0) as client:
            endpoints: list[dict[str, Any]] = (await client.get(f"{run.gateway.admin_url}/endpoints")).json()
        problems += [f"{where}: {problem}" for problem in kv_event_problems(endpoints, leg.servers)]
    return problems


def kv_event_problems(endpoints: Sequence[dict[str, Any]], servers: Sequence[ServerUse]) -> Sequence[str]:
    """The servers that computed prompts and reported no block to the picker.

    `endpoints`: of the picker's admin page. `servers`: sorted as their addresses."""
    reported = {endpoint["server"].rsplit("/")[-1]: endpoint["reported_blocks"] for endpoint in endpoints}
    return [
        f"no KV events of qwen-{number} arrived"
        for number, server in enumerate(servers)
        if server.prompt_tokens and not reported.get(f"qwen-{number}")
    ]
