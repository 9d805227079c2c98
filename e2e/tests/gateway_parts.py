"""A gateway for tests: upstreams and the picker run in this process, and Envoy in its own."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from e2e.processes import free_ports
from picker.commands.serve import Picker
from picker.commands.standalone.children import Child
from picker.commands.standalone.control_plane import ControlPlane
from picker.commands.standalone.envoy_process import EnvoyAdmin, answer, envoy_binary, envoy_command
from picker.settings import ServeSettings, StandaloneSettings, flags
from picker.sources.folder import FolderSource
from picker.xds.bootstrap import LISTENERS_FILE
from prometheus_client.parser import text_string_to_metric_families
from upstream import Upstream
from waiting import until

V1ALPHA2 = "inference.networking.x-k8s.io"
Manifest = Mapping[str, Any]


def pool(name: str, **spec: object) -> Manifest:
    """A pool of the upstreams with the label `pool: NAME`. `strategy`: its annotation. Default mode: FailClose."""
    strategy = spec.pop("strategy", "DEFAULT")
    failure_mode = spec.pop("failure_mode", "FailClose")
    return {
        "apiVersion": f"{V1ALPHA2}/v1alpha2",
        "kind": "InferencePool",
        "metadata": {"name": name, "annotations": {f"{V1ALPHA2}/routing-strategy": strategy}},
        "spec": {
            "selector": {"pool": name},
            "targetPortNumber": 8000,
            "extensionRef": {"name": "picker", "failureMode": failure_mode},
            **spec,
        },
    }


def pool_v1(name: str, app_protocol: str) -> Manifest:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"pool": name}},
            "targetPorts": [{"number": 8000}],
            "appProtocol": app_protocol,
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    }


def model(name: str, of_pool: str, criticality: str = "Standard", **targets: int) -> Manifest:
    return {
        "apiVersion": f"{V1ALPHA2}/v1alpha2",
        "kind": "InferenceModel",
        "metadata": {"name": name.replace("/", "-")},
        "spec": {
            "modelName": name,
            "criticality": criticality,
            "poolRef": {"name": of_pool},
            "targetModels": [{"name": target, "weight": weight} for target, weight in targets.items()],
        },
    }


def service(name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"pool": name}, "ports": [{"port": 8000}]},
    }


def gateway(listeners: Mapping[str, int]) -> Manifest:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "gw"},
        "spec": {
            "gatewayClassName": "c",
            "listeners": [{"name": name, "port": port, "protocol": "HTTP"} for name, port in listeners.items()],
        },
    }


def to_pool(name: str, weight: int = 1, group: str = V1ALPHA2) -> Manifest:
    return {"group": group, "kind": "InferencePool", "name": name, "weight": weight}


def to_service(name: str, weight: int = 1) -> Manifest:
    return {"name": name, "port": 8000, "weight": weight}


def route(name: str, listener: str, *rules: Mapping[str, object], hostnames: Sequence[str] = ()) -> Manifest:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {
            "parentRefs": [{"name": "gw", "sectionName": listener}],
            "hostnames": list(hostnames),
            "rules": list(rules),
        },
    }


@dataclass
class GatewayParts:
    """`async with` starts all parts, and stops them at the end."""

    upstreams: Mapping[str, Sequence[Upstream]]
    """Servers by the name of their pool or Service."""
    listeners: Sequence[str]
    """Names of the Gateway's listeners."""
    manifests: Sequence[Manifest]
    """All objects except the Gateway."""
    arguments: Sequence[str] = ()
    """Further flags of the picker."""
    amend_listeners: Callable[[str], str] = lambda text: text
    """Changes Envoy's listeners, given as JSON, before Envoy starts."""
    separate_picker: bool = False
    """Whether the picker is a process of its own (`picker_process`), so that it can be killed."""
    picker_process: Child | None = field(init=False, default=None)
    folder: Path = field(init=False)
    picker: Picker = field(init=False)
    client: httpx.AsyncClient = field(init=False)
    ports: dict[str, int] = field(init=False)
    settings: StandaloneSettings = field(init=False)
    _stack: AsyncExitStack = field(init=False, default_factory=AsyncExitStack)
    _stop: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-test-"))
        self._stack.callback(shutil.rmtree, self.folder, True)
        for upstream in self.all_upstreams:
            await self._stack.enter_async_context(upstream)
        *internal, self.ports = self._free_ports()
        self.write(*self.manifests)
        self.write_endpoints()
        self.settings = self._settings(internal)
        if self.separate_picker:
            await self.start_picker()
            self._stack.push_async_callback(self._stop_picker_process)
        else:
            self.picker = self._new_picker()
            serving = asyncio.create_task(self.picker.run(self._stop))
            self._stack.push_async_callback(self._stop_picker, serving)
            await until(lambda: serving.done() or self.picker.ready, "the picker is ready")
            if serving.done():
                await serving
        await self._start_envoy()
        self.client = await self._stack.enter_async_context(httpx.AsyncClient(timeout=20.0))

    @property
    def all_upstreams(self) -> list[Upstream]:
        return [upstream for several in self.upstreams.values() for upstream in several]

    def url(self, listener: str, path: str = "/v1/completions") -> str:
        return f"http://127.0.0.1:{self.ports[listener]}{path}"

    def write(self, *manifests: Manifest) -> None:
        """Replaces all objects except the Gateway."""
        text = yaml.safe_dump_all([gateway(self.ports), *manifests])
        (self.folder / "m").mkdir(exist_ok=True)
        (self.folder / "m" / "all.yaml").write_text(text)

    def write_endpoints(self, *without: Upstream) -> None:
        servers = [
            {"name": upstream.name, "address": upstream.host, "port": upstream.port, "labels": {"pool": name}}
            for name, several in self.upstreams.items()
            for upstream in several
            if upstream not in without
        ]
        (self.folder / "endpoints.yaml").write_text(yaml.safe_dump({"endpoints": servers}))

    async def nothing_in_flight(self) -> None:
        """Waits until the picker counts no in-flight request and no in-flight tokens."""
        await until(lambda: self.picker.tracker.total.requests == 0, "no request is in flight")
        total = self.picker.tracker.total
        assert (total.prefill_tokens, total.decode_tokens) == (0, 0)

    def _free_ports(self) -> tuple[int, int, int, int, int, dict[str, int]]:
        found = free_ports(5 + len(self.listeners))
        return (*found[:5], dict(zip(self.listeners, found[5:], strict=True)))  # pyright: ignore[reportReturnType]

    def _settings(self, ports: Sequence[int]) -> StandaloneSettings:
        names = ("ext-proc", "health", "xds", "admin", "envoy-admin")
        addresses = [f"--{name}-address=127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)]
        given = [f"--manifests={self.folder / 'm'}", f"--endpoints={self.folder / 'endpoints.yaml'}", *addresses]
        return StandaloneSettings.read([*given, "--listen-ip=127.0.0.1", "--log-level=debug", *self.arguments], "test")

    def _new_picker(self) -> Picker:
        fields = self.settings.model_dump(include=set(ServeSettings.model_fields))
        return Picker(ServeSettings.model_construct(**fields), self._source())

    async def start_picker(self) -> None:
        """Starts the picker as a process, and waits until it is ready."""
        command = [sys.executable, "-m", "picker", "serve", *flags(self.settings, ServeSettings)]
        process = self.picker_process = await Child.start("picker", command, {})
        async with asyncio.timeout(20):
            while await answer(f"http://{self.settings.admin_address}/healthz") is None:
                assert process.process.returncode is None, "the picker has exited"
                await asyncio.sleep(0.02)

    async def kill_picker(self) -> None:
        """Kills the picker's process with SIGKILL."""
        assert self.picker_process is not None
        self.picker_process.process.kill()
        await self.picker_process.process.wait()

    async def _stop_picker_process(self) -> None:
        assert self.picker_process is not None
        await self.picker_process.stop(5.0)

    def stop_picker(self) -> None:
        """Starts the shutdown of a picker in this process."""
        self._stop.set()

    async def _stop_picker(self, serving: "asyncio.Task[None]") -> None:
        self.stop_picker()
        await serving

    def _source(self) -> FolderSource:
        return FolderSource(self.folder / "m", self.folder / "endpoints.yaml")

    async def _start_envoy(self) -> None:
        settings = self.settings
        admin = EnvoyAdmin(settings.envoy_admin_address)
        control_plane = ControlPlane(settings, self.folder / "envoy", admin)
        inventories = self._source().inventories()
        control_plane.begin(await anext(inventories))
        listeners = self.folder / "envoy" / LISTENERS_FILE
        listeners.write_text(self.amend_listeners(listeners.read_text()))
        command = envoy_command(envoy_binary(None), control_plane.bootstrap_file, 1, "info")
        envoy = await Child.start("Envoy", command, {})
        self._stack.push_async_callback(envoy.stop, 3.0)
        async with asyncio.timeout(20):
            while not await admin.is_ready():
                assert envoy.process.returncode is None, "Envoy has exited"
                await asyncio.sleep(0.02)

        async def follow() -> None:
            async for inventory in inventories:
                await control_plane.follow(inventory)

        following = asyncio.create_task(follow())
        self._stack.callback(following.cancel)


async def metric(parts: GatewayParts, name: str, /, **labels: str) -> float:
    """Sum of the samples of a metric on the picker's metrics page. 0 without samples."""
    page = await parts.client.get(f"http://{parts.settings.admin_address}/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
