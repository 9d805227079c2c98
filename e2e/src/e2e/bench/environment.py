"""The processes that the bench measures: cheap servers, the picker, two baseline pickers, and an Envoy for each."""

import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx
from picker.commands.standalone.control_plane import ControlPlane
from picker.commands.standalone.envoy_process import EnvoyAdmin, envoy_binary, envoy_command
from picker.settings import ServeSettings, StandaloneSettings, flags
from picker.sources.folder import FolderSource
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from e2e.bench import bare_grpc_picker, constant_picker
from e2e.local_gateway import NotReady
from e2e.processes import LoggedChild, free_ports

_START_TIMEOUT_S = 30.0

MANIFESTS = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata: {{name: pool}}
spec:
  selector: {{app: bench}}
  targetPortNumber: 8000
  extensionRef: {{name: picker}}
---
apiVersion: v1
kind: Service
metadata: {{name: service}}
spec:
  selector: {{app: bench}}
  ports: [{{port: 8000}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: bench
  listeners:
  - {{name: plain, port: {plain}, protocol: HTTP}}
  - {{name: picked, port: {picked}, protocol: HTTP}}
  - {{name: by-model, port: {by_model}, protocol: HTTP}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: plain}}
spec:
  parentRefs: [{{name: gateway, sectionName: plain}}]
  rules: [{{backendRefs: [{{name: service, port: 8000}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: picked}}
spec:
  parentRefs: [{{name: gateway, sectionName: picked}}]
  rules: [{{backendRefs: [{{group: inference.networking.x-k8s.io, kind: InferencePool, name: pool}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: by-model}}
spec:
  parentRefs: [{{name: gateway, sectionName: by-model}}]
  rules:
  - matches: [{{headers: [{{name: X-Gateway-Model-Name, value: m}}]}}]
    backendRefs: [{{group: inference.networking.x-k8s.io, kind: InferencePool, name: pool}}]
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """Ports of the Envoys, and ids of the processes whose CPU time is measured."""

    plain: int
    """Port of a route without a picker."""
    picked: int
    """Port of the same Envoy with the picker."""
    by_model: int
    """Port of the same Envoy and picker, with a route that matches the body's model."""
    bare: int
    """Port of a second Envoy, with the bare gRPC picker."""
    constant: int
    """Port of a third Envoy, with the picker that responds with constant bytes."""
    picker_pid: int
    bare_pid: int
    envoy_pid: int


@asynccontextmanager
async def bench_environment(replicas: int) -> AsyncGenerator[Environment]:
    """Starts all processes, and stops them at the end. Raises ProcessFailed or NotReady."""
    async with AsyncExitStack() as stack:
        folder = _temporary_folder(stack)
        servers = free_ports(replicas)
        await _start_servers(stack, folder, servers)
        of_picker = _settings(folder / "picked", servers, [])
        picker = await _start_picker(stack, folder, of_picker)
        # The Envoys of the baseline pickers get their endpoints from the picker, too.
        of_bare = _settings(folder / "bare", servers, [f"--xds-address={of_picker.settings.xds_address}"])
        of_constant = _settings(folder / "constant", servers, [f"--xds-address={of_picker.settings.xds_address}"])
        endpoints = [f"127.0.0.1:{port}" for port in servers]
        bare = await _start_baseline(stack, folder, bare_grpc_picker, of_bare, endpoints)
        await _start_baseline(stack, folder, constant_picker, of_constant, endpoints)
        envoy, *_ = [await _start_envoy(stack, folder, gateway) for gateway in (of_picker, of_bare, of_constant)]
        pids = (child.process.pid for child in (picker, bare, envoy))
        environment = Environment(
            of_picker.plain, of_picker.picked, of_picker.by_model, of_bare.picked, of_constant.picked, *pids
        )
        # The constant picker does not support requests without a body.
        for port in (environment.plain, environment.picked, environment.by_model, environment.bare, of_constant.plain):
            await _body_once_ready(f"http://127.0.0.1:{port}/v1/models")
        yield environment


@asynccontextmanager
async def scraping(endpoints: int, interval_s: float) -> AsyncGenerator[int]:
    """Starts a picker without requests, which only scrapes. Yields its process id."""
    async with AsyncExitStack() as stack:
        folder = _temporary_folder(stack)
        servers = free_ports(endpoints)
        await _start_servers(stack, folder, servers)
        only = _settings(folder / "idle", servers, [f"--scrape-interval-s={interval_s}"])
        yield (await _start_picker(stack, folder, only)).process.pid


@dataclass(frozen=True, slots=True)
class _Gateway:
    settings: StandaloneSettings
    plain: int
    picked: int
    by_model: int


def _settings(folder: Path, servers: Sequence[int], more: Sequence[str]) -> _Gateway:
    """Settings of a gateway whose files are in `folder`, with servers on loopback ports."""
    plain, picked, by_model, *inside = free_ports(8)
    (folder / "m").mkdir(parents=True)
    (folder / "m" / "all.yaml").write_text(MANIFESTS.format(plain=plain, picked=picked, by_model=by_model))
    lines = (f"- {{name: s{port}, address: 127.0.0.1, port: {port}, labels: {{app: bench}}}}" for port in servers)
    (folder / "endpoints.yaml").write_text("\n".join(["endpoints:", *lines]))
    names = ("ext-proc", "health", "xds", "admin", "envoy-admin")
    addresses = (f"--{name}-address=127.0.0.1:{port}" for name, port in zip(names, inside, strict=True))
    given = [f"--manifests={folder / 'm'}", f"--endpoints={folder / 'endpoints.yaml'}", *addresses, *more]
    settings = StandaloneSettings.read([*given, "--listen-ip=127.0.0.1"], "gateway-bench")
    return _Gateway(settings, plain, picked, by_model)


async def _start_servers(stack: AsyncExitStack, folder: Path, ports: Sequence[int]) -> None:
    """Starts cheap servers. All serve the metrics page of a vLLM mock that has just started."""
    [mock] = free_ports(1)
    command = [str(Path(sys.executable).parent / "vllm-mock"), "serve", "--port", str(mock), "--host", "127.0.0.1"]
    child = await LoggedChild.start("vllm-mock", command, folder / "vllm-mock.log")
    try:
        (folder / "metrics.txt").write_bytes(await _body_once_ready(f"http://127.0.0.1:{mock}/metrics", child))
    finally:
        await child.stop()
    command = [sys.executable, "-m", "e2e.bench.upstreams", str(folder / "metrics.txt"), *map(str, ports)]
    servers = await _start(stack, folder, "servers", command)
    await _body_once_ready(f"http://127.0.0.1:{ports[-1]}/metrics", servers)


async def _start_picker(stack: AsyncExitStack, folder: Path, gateway: _Gateway) -> LoggedChild:
    command = [sys.executable, "-m", "picker", "serve", *flags(gateway.settings, ServeSettings)]
    picker = await _start(stack, folder, "picker", command)
    await _body_once_ready(f"http://{gateway.settings.admin_address}/healthz", picker)
    return picker


async def _start_baseline(
    stack: AsyncExitStack, folder: Path, module: ModuleType, gateway: _Gateway, endpoints: Sequence[str]
) -> LoggedChild:
    """Starts a baseline picker at the address of `gateway`'s picker."""
    command = baseline_command(module, gateway.settings.ext_proc_address, endpoints)
    return await _start(stack, folder, module.__name__, command)


def baseline_command(module: ModuleType, address: str, endpoints: Sequence[str]) -> list[str]:
    """Command line of a baseline picker that listens at `address`."""
    return [sys.executable, "-m", module.__name__, address, *endpoints]


async def _start_envoy(stack: AsyncExitStack, folder: Path, gateway: _Gateway) -> LoggedChild:
    settings = gateway.settings
    admin = EnvoyAdmin(settings.envoy_admin_address)
    control_plane = ControlPlane(settings, folder / f"envoy-{gateway.picked}", admin)
    control_plane.begin(await anext(FolderSource(settings.manifests, settings.endpoints).inventories()))
    command = envoy_command(envoy_binary(None), control_plane.bootstrap_file, settings.envoy_concurrency, "error")
    return await _start(stack, folder, "envoy", command)


async def _start(stack: AsyncExitStack, folder: Path, name: str, command: Sequence[str]) -> LoggedChild:
    child = await LoggedChild.start(name, command, folder / f"{name}.log")
    stack.push_async_callback(child.stop)
    return child


def _temporary_folder(stack: AsyncExitStack) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    stack.callback(shutil.rmtree, folder, True)
    return folder


async def _body_once_ready(url: str, child: LoggedChild | None = None) -> bytes:
    """Waits until a GET returns 200, and returns its body. Raises ProcessFailed if `child` exits, and NotReady."""
    async with httpx.AsyncClient(timeout=2.0) as client:
        async for attempt in AsyncRetrying(
            stop=stop_after_delay(_START_TIMEOUT_S),
            wait=wait_fixed(0.05),
            retry=retry_if_exception_type((httpx.TransportError, NotReady)),
            reraise=True,
        ):
            with attempt:
                if child is not None:
                    child.check()
                answer = await client.get(url)
                if answer.status_code != 200:
                    raise NotReady(f"{url} responds with {answer.status_code}")
                return answer.content
    raise NotReady(url)
