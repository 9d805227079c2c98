"""The cost of many pods while no requests arrive."""

import asyncio
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import yaml
from api_server import ApiServer, Json, api_servers

POOLS, PODS_OF_EACH = 20, 10
PATHS = (
    "/apis/inference.networking.k8s.io/v1/inferencepools",
    *(f"/api/v1/namespaces/team-{pool}/pods" for pool in range(POOLS)),
)
MEASURED_S = 5.0

MOST_OF_A_CORE = 0.05
"""Twice what it takes on two cores that others keep busy."""

MOST_BYTES = 150e6

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="CPU time and memory are read from Linux"
)


def pool(number: int) -> Json:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "pool", "namespace": f"team-{number}", "uid": f"pool-{number}", "resourceVersion": "1"},
        "spec": {
            "selector": {"matchLabels": {"app": "qwen"}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    }


def pod(of_pool: int, number: int) -> Json:
    """Ready, at a loopback address without a listener, which refuses each scrape."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"qwen-{number}",
            "namespace": f"team-{of_pool}",
            "labels": {"app": "qwen"},
            "resourceVersion": "1",
        },
        "status": {
            "phase": "Running",
            "podIP": f"127.1.{of_pool}.{number + 1}",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@asynccontextmanager
async def watching(folder: Path) -> AsyncGenerator[int]:
    """A picker with all pods. Yields its process id."""
    async with api_servers(*PATHS) as (servers, config):
        servers[0].objects = [pool(number) for number in range(POOLS)]
        for number, server in enumerate(servers[1:]):
            server.objects = [pod(number, item) for item in range(PODS_OF_EACH)]
        kubeconfig = folder / "kubeconfig"
        named = {"name": "test"}
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "test",
                    "contexts": [{**named, "context": {"cluster": "test", "user": "test"}}],
                    "clusters": [{**named, "cluster": {"server": config.cluster.server}}],
                    "users": [{**named, "user": {}}],
                }
            )
        )
        names = ("admin", "ext-proc", "health", "xds")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "picker", "serve"),
            *(f"--{name}-address=127.0.0.1:{port}" for name, port in ports.items()),
            # A line for each pod that cannot be scraped is right, and nothing that a picker at rest writes.
            "--log-level=error",
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        )
        try:
            await known(f"http://127.0.0.1:{ports['admin']}/endpoints", process)
            yield process.pid
        finally:
            process.terminate()
            end_watches(servers)
            await process.wait()


async def known(url: str, process: asyncio.subprocess.Process) -> None:
    """Wait until the picker has every pod."""
    async with httpx2.AsyncClient() as client, asyncio.timeout(60):
        while process.returncode is None:
            try:
                if len((await client.get(url)).json()) == POOLS * PODS_OF_EACH:
                    return
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise AssertionError(f"the picker ended with status {process.returncode}")


def end_watches(servers: list[ApiServer]) -> None:
    """The server waits for its watches."""
    for server in servers:
        server.events.put_nowait(None)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


async def test_two_hundred_pods_of_twenty_pools_cost_little_cpu(tmp_path: Path) -> None:
    """Idle watches, and one attempt a second to scrape each pod."""
    async with watching(tmp_path) as pid:
        before_s, began_s = cpu_s(pid), time.perf_counter()
        await asyncio.sleep(MEASURED_S)
        share = (cpu_s(pid) - before_s) / (time.perf_counter() - began_s)
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    print(f"{share:.1%} of a core, {resident / 1e6:.0f} MB")
    assert share < MOST_OF_A_CORE
    assert resident < MOST_BYTES
