"""`picker standalone` as a process: start, stop and restart of its children, edits, and startup errors."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from e2e.local_gateway import MANIFESTS
from e2e.processes import LoggedChild, free_ports
from upstream import Upstream
from waiting import eventually, until

BODY = b'{"model": "/model/qwen"}'


class Standalone:
    """The tutorial's manifests on free ports, in front of one upstream."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.folder = folder
        self.upstream = upstream
        self.plain, self.picked, self.admin, *self._internal = free_ports(7)
        self.log = folder / "gateway.log"
        (folder / "m").mkdir()
        for source in [*sorted((MANIFESTS / "tutorial").glob("*.yaml")), MANIFESTS / "vllm-service.yaml"]:
            text = source.read_text().replace("port: 8080", f"port: {self.plain}")
            (folder / "m" / source.name).write_text(text.replace("port: 8081", f"port: {self.picked}"))
        server = f"{{name: a, address: 127.0.0.1, port: {upstream.port}, labels: {{app: qwen}}}}"
        (folder / "endpoints.yaml").write_text(f"endpoints:\n- {server}\n")

    async def start(self, *more: str) -> LoggedChild:
        names = ("ext-proc", "health", "xds", "envoy-admin")
        addresses = [f"--{name}-address=127.0.0.1:{port}" for name, port in zip(names, self._internal, strict=True)]
        given = [f"--manifests={self.folder / 'm'}", f"--endpoints={self.folder / 'endpoints.yaml'}", *addresses]
        command = [sys.executable, "-m", "picker", "standalone", *given, f"--admin-address=127.0.0.1:{self.admin}"]
        return await LoggedChild.start("standalone", [*command, "--listen-ip=127.0.0.1", *more], self.log)

    async def status(self, port: int) -> int | None:
        async with httpx.AsyncClient(timeout=5.0) as client:
            try:
                return (await client.post(f"http://127.0.0.1:{port}/v1/completions", content=BODY)).status_code
            except httpx.TransportError:
                return None

    async def serves(self) -> None:
        """Waits until both ports serve."""

        async def both() -> bool:
            return (await self.status(self.plain), await self.status(self.picked)) == (200, 200)

        await eventually(both, "both ports serve", 30.0)

    def pid(self, name: str) -> int:
        """The last process id that the log has under this name."""
        return int(re.findall(rf"{name}=(\d+)", self.log.read_text())[-1])


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Standalone, LoggedChild]]:
    async with Upstream("a") as upstream:
        gateway = Standalone(folder, upstream)
        child = await gateway.start()
        try:
            await until(
                lambda: not child.running or "gateway.ready" in gateway.log.read_text(), "the gateway is ready", 30.0
            )
            child.check()
            await gateway.serves()
            yield gateway, child
        finally:
            await child.stop()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process whose parent has exited may be a zombie until it is reaped.
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


async def test_sigterm_stops_all_processes_and_frees_their_ports(tmp_path: Path) -> None:
    async with running(tmp_path) as (gateway, child):
        pids = [gateway.pid("picker_pid"), gateway.pid("envoy_pid")]
        child.process.terminate()
        assert await child.process.wait() == 0
        assert not any(map(alive, pids))
        assert (await gateway.status(gateway.plain), await gateway.status(gateway.picked)) == (None, None)


async def test_a_killed_picker_is_restarted_and_envoy_keeps_running(tmp_path: Path) -> None:
    async with running(tmp_path) as (gateway, child):
        envoy = gateway.pid("envoy_pid")
        os.kill(gateway.pid("picker_pid"), signal.SIGKILL)
        assert await gateway.status(gateway.plain) == 200
        await until(lambda: "picker.restarted" in gateway.log.read_text(), "the picker is restarted")
        await gateway.serves()
        assert child.running
        assert gateway.pid("envoy_pid") == envoy
        assert "killed by SIGKILL" in gateway.log.read_text()


async def test_after_envoy_is_killed_the_command_logs_it_and_exits(tmp_path: Path) -> None:
    async with running(tmp_path) as (gateway, child):
        picker = gateway.pid("picker_pid")
        os.kill(gateway.pid("envoy_pid"), signal.SIGKILL)
        assert await child.process.wait() == 1
        assert "picker standalone: Envoy killed by SIGKILL" in gateway.log.read_text()
        assert not alive(picker)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals children when their parent exits")
async def test_after_the_command_is_killed_its_children_exit(tmp_path: Path) -> None:
    async with running(tmp_path) as (gateway, child):
        pids = [gateway.pid("picker_pid"), gateway.pid("envoy_pid")]
        child.process.kill()
        await until(lambda: not any(map(alive, pids)), "all children have exited")


async def test_an_edited_listener_moves_to_its_new_port(tmp_path: Path) -> None:
    async with running(tmp_path) as (gateway, _):
        [new] = free_ports(1)
        file = gateway.folder / "m" / "inference-gateway.yaml"
        file.write_text(file.read_text().replace(f"port: {gateway.plain}", f"port: {new}"))

        async def moved() -> bool:
            return (await gateway.status(new), await gateway.status(gateway.plain)) == (200, None)

        await eventually(moved, "the listener has moved")
        assert await gateway.status(gateway.picked) == 200


async def failed(child: LoggedChild) -> str:
    """Waits until the command fails to start. Returns its log, which has no traceback."""
    async with asyncio.timeout(30):
        status = await child.process.wait()
    assert status == 1, child.last_lines()
    assert "Traceback" not in child.log.read_text()
    return child.log.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--envoy=/nowhere/envoy"], "--envoy /nowhere/envoy: not an executable file"),
        (["--endpoints=/nowhere/endpoints.yaml"], "/nowhere/endpoints.yaml: cannot be read"),
        (["--manifests=/nowhere"], "/nowhere: is not a folder"),
    ],
    ids=["no Envoy", "no endpoints file", "no manifests"],
)
async def test_a_missing_file_is_reported_in_a_line(tmp_path: Path, flags: list[str], message: str) -> None:
    gateway = Standalone(tmp_path, Upstream("a", port=1))
    assert message in await failed(await gateway.start(*flags))


@pytest.mark.parametrize(
    ("which", "purpose"),
    [("picked", "listener default/qwen-inference-gateway/llm-gw"), ("admin", "--admin-address")],
)
async def test_a_port_in_use_is_reported(tmp_path: Path, which: str, purpose: str) -> None:
    gateway = Standalone(tmp_path, Upstream("a", port=1))
    with socket.create_server(("127.0.0.1", getattr(gateway, which))):
        message = await failed(await gateway.start())
    assert f"{purpose}: cannot listen on 127.0.0.1:{getattr(gateway, which)}: Address already in use" in message


async def test_an_invalid_object_is_reported(tmp_path: Path) -> None:
    gateway = Standalone(tmp_path, Upstream("a", port=1))
    file = gateway.folder / "m" / "inference-pool.yaml"
    file.write_text(file.read_text().replace("targetPortNumber: 8000", "targetPortNumber: 0"))
    assert "InferencePool default/vllm-qwen-pool: spec.targetPortNumber" in await failed(await gateway.start())
