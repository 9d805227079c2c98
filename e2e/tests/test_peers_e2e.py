"""Two picker processes count each other's requests, over mutual TLS with the extension's certificates."""

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from e2e.processes import LoggedChild, free_ports
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from manifests import LOCAL_ENDPOINTS, LOCAL_POOL
from picker.controller.certificates import issue, new_authority
from waiting import eventually

pytestmark = pytest.mark.timeout(120)

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
START_S = 40.0
"""On a busy machine."""


class PickerProcess:
    """A `picker serve` that can be killed and started again."""

    def __init__(self, name: str, folder: Path, peer_ports: tuple[int, int]) -> None:
        self._name = name
        self._folder = folder
        self._own, self._other = peer_ports
        self._ext_proc, self._health, self._xds, self._admin = free_ports(4)
        self._child: LoggedChild | None = None

    async def start(self) -> None:
        folder = self._folder
        addresses = {
            "ext-proc": self._ext_proc,
            "health": self._health,
            "xds": self._xds,
            "admin": self._admin,
            "peer": self._own,
        }
        command = [
            *(sys.executable, "-m", "picker", "serve"),
            f"--manifests={folder / 'manifests'}",
            f"--endpoints={folder / 'endpoints.yaml'}",
            *(f"--{name}-address=127.0.0.1:{port}" for name, port in addresses.items()),
            # As the pods of a Service: its own address is among them.
            *(f"--peers=127.0.0.1:{port}" for port in sorted((self._own, self._other))),
            *(f"--tls-{name}={folder / file}" for name, file in TLS_FILES.items()),
        ]
        self._child = await LoggedChild.start(self._name, command, folder / f"{self._name}.log")

    async def kill(self) -> None:
        assert self._child is not None
        self._child.process.kill()
        await self._child.process.wait()

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()

    async def page(self, path: str) -> str:
        assert self._child is not None
        self._child.check()
        async with httpx2.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{self._admin}{path}")).text

    async def counts(self) -> tuple[int, int]:
        """Requests in flight from this picker and from its peer."""
        try:
            endpoints: list[dict[str, Any]] = json.loads(await self.page("/endpoints"))
        except httpx2.TransportError:
            return -1, -1
        return (
            sum(each["in_flight_requests"] for each in endpoints),
            sum(each["peers_in_flight_requests"] for each in endpoints),
        )

    async def peers(self) -> bool:
        """Whether it is connected to its peer."""
        try:
            return "inference_gateway_peers 1.0" in await self.page("/metrics")
        except httpx2.TransportError:
            return False

    @asynccontextmanager
    async def requests(self, count: int) -> AsyncIterator[Sequence[Any]]:
        """Open streams of requests that have their endpoint."""
        folder = self._folder
        credentials = grpc.ssl_channel_credentials(
            *((folder / TLS_FILES[name]).read_bytes() for name in ("client-ca", "key", "certificate"))
        )
        options = (("grpc.ssl_target_name_override", HOST),)
        async with grpc.aio.secure_channel(f"127.0.0.1:{self._ext_proc}", credentials, options) as channel:
            process = channel.stream_stream(
                PROCESS,
                request_serializer=pb.ProcessingRequest.SerializeToString,
                response_deserializer=pb.ProcessingResponse.FromString,
            )
            calls: list[Any] = []
            for _ in range(count):
                call: Any = process()
                headers = pb.ProcessingRequest(request_headers=pb.HttpHeaders())
                for key, value in ((":method", "POST"), (":path", "/v1/completions")):
                    headers.request_headers.headers.headers.add(key=key, raw_value=value.encode())
                await call.write(headers)
                body = json.dumps({"model": "qwen", "prompt": "hello", "max_tokens": 10}).encode()
                await call.write(pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True)))
                await call.read()
                calls.append(call)
            yield calls


HOST = "picker.ai.svc.cluster.local"
TLS_FILES = {"certificate": "tls.crt", "key": "tls.key", "client-ca": "ca.crt"}


@asynccontextmanager
async def two_pickers(folder: Path) -> AsyncIterator[tuple[PickerProcess, PickerProcess]]:
    (folder / "manifests").mkdir()
    (folder / "manifests" / "pool.yaml").write_text(LOCAL_POOL)
    (folder / "endpoints.yaml").write_text(LOCAL_ENDPOINTS)
    now = datetime.now(UTC)
    authority = new_authority(now)
    own = issue(authority, "picker", [HOST], now, is_peer=True)
    contents = {"tls.crt": own.certificate, "tls.key": own.key, "ca.crt": authority.certificate}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    ports = free_ports(2)
    pickers = (
        PickerProcess("first", folder, (ports[0], ports[1])),
        PickerProcess("second", folder, (ports[1], ports[0])),
    )
    try:
        for picker in pickers:
            await picker.start()
        for picker in pickers:
            await eventually(picker.peers, "the pickers are connected", START_S)
        yield pickers
    finally:
        for picker in pickers:
            await picker.stop()


async def show(picker: PickerProcess, own: int, of_peer: int, timeout_s: float = 10.0) -> None:
    async def holds() -> bool:
        return await picker.counts() == (own, of_peer)

    await eventually(holds, f"{own} own requests and {of_peer} of the peer are counted", timeout_s)


async def test_a_picker_that_is_killed_and_comes_back_knows_the_others_requests(tmp_path: Path) -> None:
    async with two_pickers(tmp_path) as (first, second), second.requests(5):
        async with first.requests(7) as streams:
            await show(first, 7, 5)
            await show(second, 5, 7)
            for stream in streams[:3]:
                stream.cancel()
            await show(first, 4, 5)
            await show(second, 5, 4)
            await first.kill()
        # Silent for 3 s.
        await show(second, 5, 0)
        await first.start()
        await eventually(first.peers, "the pickers are connected", START_S)
        await show(first, 0, 5)
        await show(second, 5, 0)
