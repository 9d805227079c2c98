"""The complete gateway on this machine: model servers, the picker and Envoy, by default with the tutorial's
manifests."""

import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import httpx
import yaml
from picker.resources.pool_annotations import STRATEGY_ANNOTATION
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from e2e.processes import LoggedChild, ProcessFailed, free_ports, taken

MANIFESTS = Path(__file__).parents[2] / "manifests"
TUTORIAL = (*sorted((MANIFESTS / "tutorial").glob("*.yaml")), MANIFESTS / "vllm-service.yaml")
MODELS = (MANIFESTS / "models" / "models.yaml",)
"""Two models behind port 8081: MODEL with an adapter, and SECOND_MODEL."""
MODEL, SECOND_MODEL, ADAPTER = "/model/qwen", "/model/llama", "qwen-reviews"
POOL = "vllm-qwen-pool"
PLAIN_PORT, PICKED_PORT = 8080, 8081
_BIN = Path(sys.executable).parent
_START_TIMEOUT_S = 30.0


class NotReady(Exception):
    """A part does not serve yet."""


class PortsTaken(Exception):
    """Another process listens on a port of the gateway."""


class Fleet(Protocol):
    """Model servers of one kind. Each is a process of its own, so that it can be killed."""

    @property
    def replicas(self) -> int: ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of the processes beyond this process's own."""
        ...

    @property
    def start_timeout_s(self) -> float:
        """Longest time until a server responds."""
        ...

    def command(self, index: int, port: int) -> Sequence[str]:
        """The command of the replica `index`, which listens on `port` of 127.0.0.1."""
        ...

    def labels(self, index: int) -> Mapping[str, str]:
        """Labels of the replica's line in the endpoints file beyond the pool's selector."""
        ...


@dataclass(frozen=True, slots=True)
class MockFleet:
    """Mocks of one card. Each is a process of its own, so that it can be killed."""

    replicas: int = 4
    preset: str = "a10"
    time_scale: float = 1.0
    arguments: tuple[str, ...] = ()
    """Further flags of `vllm-mock serve`."""
    metrics_profiles: tuple[str, ...] = ("v1-current",)
    """Metrics profiles, which the replicas use in turn. A profile sets the names of the metrics."""
    model: str = MODEL
    app: str = "qwen"
    """The label by which a pool selects the servers."""

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def start_timeout_s(self) -> float:
        return _START_TIMEOUT_S

    def command(self, index: int, port: int) -> Sequence[str]:
        return [
            str(_BIN / "vllm-mock"), "serve", "--served-model-name", self.model,
            "--host", "127.0.0.1", "--port", str(port),
            "--preset", self.preset, "--time-scale", str(self.time_scale),
            "--metrics-profile", self.metrics_profiles[index % len(self.metrics_profiles)], *self.arguments,
        ]  # fmt: skip

    def labels(self, index: int) -> Mapping[str, str]:
        return {"app": self.app}


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of the parts."""

    plain: int
    picked: int
    ext_proc: int
    health: int
    xds: int
    admin: int
    envoy_admin: int
    mocks: tuple[int, ...]

    @classmethod
    def free(cls, replicas: int) -> "Ports":
        """Free ports: a machine can run several gateways."""
        plain, picked, ext_proc, health, xds, admin, envoy_admin, *mocks = free_ports(7 + replicas)
        return cls(plain, picked, ext_proc, health, xds, admin, envoy_admin, tuple(mocks))

    @classmethod
    def of_the_tutorial(cls, replicas: int) -> "Ports":
        """8080 and 8081 for the Gateway, and free ports for the rest. Raises PortsTaken."""
        if busy := taken([PLAIN_PORT, PICKED_PORT]):
            raise PortsTaken(
                f"port {' and '.join(map(str, busy))} in use: stop the process that listens there and try again"
            )
        inside = cls.free(replicas)
        return cls(PLAIN_PORT, PICKED_PORT, *(getattr(inside, name) for name in list(cls.__slots__)[2:]))


@dataclass(slots=True)
class LocalGateway:
    """`async with` starts all processes, and stops them at the end, also after an error."""

    fleets: Sequence[Fleet] = (MockFleet(),)
    ports: Ports | None = None
    picker_arguments: Sequence[str] = ()
    sources: Sequence[Path] = TUTORIAL
    """The manifests."""
    folder: Path = field(init=False)
    mocks: list[LoggedChild] = field(init=False, default_factory=list)
    picker: LoggedChild | None = field(init=False, default=None)

    @property
    def manifests(self) -> Path:
        """The folder of manifests, which the gateway watches for changes."""
        return self.folder / "manifests"

    @property
    def endpoints_file(self) -> Path:
        return self.folder / "endpoints.yaml"

    @property
    def plain_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.plain}"

    @property
    def picked_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.picked}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.admin}"

    @property
    def envoy_admin_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.envoy_admin}"

    @property
    def mock_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports.mocks]

    @property
    def _ports(self) -> Ports:
        assert self.ports is not None, "the gateway has not been started"
        return self.ports

    async def __aenter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="inference-gateway-"))
        replicas = sum(fleet.replicas for fleet in self.fleets)
        self.ports = self.ports or Ports.free(replicas)
        try:
            self.write_manifests()
            self.write_endpoints()
            for number in range(replicas):
                self.mocks.append(await self._start_mock(number))
            self.picker = await self._start_picker()
            await self.wait_until_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def check(self) -> None:
        """Raises ProcessFailed if a part has exited."""
        for child in [*self.mocks, self.picker]:
            if child is not None:
                child.check()

    async def stop(self) -> None:
        children = [*([self.picker] if self.picker else []), *self.mocks]
        await asyncio.gather(*(child.stop() for child in children))
        shutil.rmtree(self.folder, ignore_errors=True)

    def write_manifests(self) -> None:
        """Copies the manifests. Only the ports of the listeners are replaced by those of `ports`."""
        self.manifests.mkdir()
        for source in self.sources:
            text = source.read_text()
            for port, actual in ((PLAIN_PORT, self._ports.plain), (PICKED_PORT, self._ports.picked)):
                text = re.sub(rf"\bport: {port}\b", f"port: {actual}", text)
            (self.manifests / source.name).write_text(text)

    def write_endpoints(self, without: Sequence[int] = ()) -> None:
        """Writes the endpoints file with all mocks except the numbers in `without`."""
        servers = [
            {
                "name": f"qwen-{number}",
                "address": "127.0.0.1",
                "port": port,
                "labels": {"app": "qwen", **fleet.labels(index)},
            }
            for number, (port, (fleet, index)) in enumerate(zip(self._ports.mocks, self._replicas, strict=True))
            if number not in without
        ]
        self.endpoints_file.write_text(yaml.safe_dump({"endpoints": servers}, sort_keys=False))

    def edit(self, name: str, old: str, new: str) -> None:
        """Replaces text in a manifest."""
        path = self.manifests / name
        text = path.read_text()
        assert old in text, f"{name} holds no {old!r}"
        path.write_text(text.replace(old, new))

    async def set_strategy(self, strategy: str) -> None:
        """Annotates the pool of the picked port, and waits until the picker uses the strategy. Raises NotReady."""
        path = self.manifests / "inference-pool.yaml"
        documents = list(yaml.safe_load_all(path.read_text()))
        for document in documents:
            if document["kind"] == "InferencePool":
                document["metadata"]["annotations"] = {STRATEGY_ANNOTATION: strategy}
        path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        async with httpx.AsyncClient(timeout=2.0) as client:
            async for attempt in _retrying():
                with attempt:
                    pools = (await client.get(f"{self.admin_url}/pools")).json()
                    if strategy not in [pool["strategy"] for pool in pools if pool["pool"].endswith(POOL)]:
                        raise NotReady(f"the picker does not use the pool's strategy {strategy}")

    @property
    def _replicas(self) -> list[tuple[Fleet, int]]:
        """Each model server's fleet, and its index there."""
        return [(fleet, index) for fleet in self.fleets for index in range(fleet.replicas)]

    async def _start_mock(self, number: int) -> LoggedChild:
        fleet, index = self._replicas[number]
        command = fleet.command(index, self._ports.mocks[number])
        return await LoggedChild.start(f"qwen-{number}", command, self.folder / f"qwen-{number}.log", fleet.environment)

    async def _start_picker(self) -> LoggedChild:
        ports = self._ports
        command = [
            str(_BIN / "picker"), "standalone",
            "--manifests", str(self.manifests), "--endpoints", str(self.endpoints_file),
            "--ext-proc-address", f"127.0.0.1:{ports.ext_proc}", "--health-address", f"127.0.0.1:{ports.health}",
            "--xds-address", f"127.0.0.1:{ports.xds}", "--admin-address", f"127.0.0.1:{ports.admin}",
            "--envoy-admin-address", f"127.0.0.1:{ports.envoy_admin}", "--listen-ip", "127.0.0.1",
            "--work-dir", str(self.folder / "envoy"), *self.picker_arguments,
        ]  # fmt: skip
        return await LoggedChild.start("picker standalone", command, self.folder / "gateway.log")

    async def wait_until_ready(self) -> None:
        """Waits until servers, picker and both ports serve. Raises ProcessFailed if a part exits, and NotReady."""
        async with httpx.AsyncClient(timeout=2.0) as client:
            for url, (fleet, _) in zip(self.mock_urls, self._replicas, strict=True):
                await self._wait_for(client, f"{url}/health", fleet.start_timeout_s)
            serves_plain = any(f"port: {PLAIN_PORT}" in source.read_text() for source in self.sources)
            plain = [f"{self.plain_url}/v1/models"] if serves_plain else []
            for url in (f"{self.admin_url}/healthz", *plain, f"{self.picked_url}/v1/models"):
                await self._wait_for(client, url, _START_TIMEOUT_S)

    async def _wait_for(self, client: httpx.AsyncClient, url: str, timeout_s: float) -> None:
        async for attempt in _retrying(timeout_s):
            with attempt:
                self.check()
                answer = await client.get(url)
                if answer.status_code != 200:
                    raise NotReady(f"{url} responds with {answer.status_code}")


def _retrying(timeout_s: float = _START_TIMEOUT_S) -> AsyncRetrying:
    return AsyncRetrying(
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(0.05),
        retry=retry_if_exception_type((httpx.TransportError, NotReady)),
        reraise=True,
    )


__all__ = [
    "ADAPTER",
    "MODEL",
    "MODELS",
    "SECOND_MODEL",
    "Fleet",
    "LocalGateway",
    "MockFleet",
    "NotReady",
    "Ports",
    "PortsTaken",
    "ProcessFailed",
]
