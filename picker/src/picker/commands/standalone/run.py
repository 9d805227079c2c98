"""Supervises the three processes: starts them in order, restarts the picker, and stops all on every exit."""

import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import structlog

from picker.addresses import check_free
from picker.cli_error import CliError
from picker.commands.standalone.children import Child, how_it_ended
from picker.commands.standalone.control_plane import ControlPlane
from picker.commands.standalone.envoy_process import EnvoyAdmin, answer, envoy_binary, envoy_command
from picker.logs import configure_logging
from picker.settings import ENV_PREFIX, ServeSettings, StandaloneSettings, flags
from picker.sources.folder import FolderSource
from picker.sources.inventory import Inventory

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 30.0
"""Limit for the picker and for Envoy to become ready. Judgement: each takes a second on an idle machine."""

RESTART_FIRST_S, RESTART_MAX_S = 0.1, 10.0
"""Pauses before a restart of the picker: the first one, and the maximum after doubling. Judgement."""

STABLE_AFTER_S = 60.0
"""Uptime after which the pause is reset. Judgement."""

ENVOY_GRACE_S = 3.0
PICKER_GRACE_S = 5.0
"""Time for the picker to exit after its drain."""

_POLL_S = 0.05


class PartFailed(CliError):
    """Envoy has ended, or a process did not become ready."""


async def standalone(settings: StandaloneSettings) -> int:
    """Runs the gateway until SIGTERM or SIGINT. Returns the exit status. Raises PartFailed, EnvoyMissing, AddressTaken
    and InvalidManifests."""
    configure_logging(settings.log_level, settings.log_format)
    # The picker logs changes of the manifests; once is enough.
    logging.getLogger("picker.sources").setLevel(logging.CRITICAL)
    _cancel_on_signal()
    binary = envoy_binary(settings.envoy)
    inventories = FolderSource(settings.manifests, settings.endpoints).inventories()
    try:
        with _folder(settings.work_dir) as folder:
            await _run(settings, binary, folder, await anext(inventories), inventories)
    except asyncio.CancelledError:
        log.info("gateway.stopped")
    return 0


async def _run(
    settings: StandaloneSettings, binary: Path, folder: Path, first: Inventory, inventories: AsyncIterator[Inventory]
) -> None:
    admin = EnvoyAdmin(settings.envoy_admin_address)
    control_plane = ControlPlane(settings, folder, admin)
    control_plane.begin(first)
    check_free(
        _addresses(settings) | {f"listener {name}": address for name, address in control_plane.listen_addresses()}
    )
    async with AsyncExitStack() as stack:
        # The order of stopping is the reverse: without Envoy the picker has nothing to wait for.
        picker = await stack.enter_async_context(_SupervisedPicker(settings))
        await _until_ready("picker", picker.is_ready, picker.child)
        command = envoy_command(binary, control_plane.bootstrap_file, settings.envoy_concurrency, settings.log_level)
        envoy = await stack.enter_async_context(_running("Envoy", command))
        await _until_ready("Envoy", admin.is_ready, envoy)
        await control_plane.confirm()
        log.info("gateway.ready", picker_pid=picker.child.process.pid, envoy_pid=envoy.process.pid)
        await _first_to_fail(_envoy_ended(envoy), picker.keep(), _follow(inventories, control_plane))


class _SupervisedPicker:
    """A picker process that is restarted when it exits."""

    child: Child

    def __init__(self, settings: StandaloneSettings) -> None:
        self._settings = settings
        self._command = [sys.executable, "-m", "picker", "serve", *flags(settings, ServeSettings)]

    async def __aenter__(self) -> "_SupervisedPicker":
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.child.stop(self._settings.drain_s + PICKER_GRACE_S)

    async def _start(self) -> None:
        self.child = await Child.start("picker", self._command, _environment())

    async def is_ready(self) -> bool:
        return await answer(f"http://{self._settings.admin_address}/healthz") is not None

    async def keep(self) -> None:
        """Restarts the picker whenever it exits. Never returns."""
        clock = asyncio.get_running_loop().time
        wait_s = RESTART_FIRST_S
        while True:
            started_s = clock()
            status = await self.child.process.wait()
            if clock() - started_s > STABLE_AFTER_S:
                wait_s = RESTART_FIRST_S
            log.error("picker.exited", how=how_it_ended(status), restart_in_s=wait_s)
            await asyncio.sleep(wait_s)
            await self._start()
            log.info("picker.restarted", pid=self.child.process.pid)
            wait_s = min(2 * wait_s, RESTART_MAX_S)


@asynccontextmanager
async def _running(name: str, command: list[str]) -> AsyncGenerator[Child]:
    child = await Child.start(name, command, _environment())
    try:
        yield child
    finally:
        await child.stop(ENVOY_GRACE_S)


async def _envoy_ended(envoy: Child) -> None:
    raise PartFailed(f"Envoy {how_it_ended(await envoy.process.wait())}")


async def _follow(inventories: AsyncIterator[Inventory], control_plane: ControlPlane) -> None:
    async for inventory in inventories:
        await control_plane.follow(inventory)


async def _until_ready(name: str, is_ready: Callable[[], Awaitable[bool]], child: Child) -> None:
    """Waits until the process is ready. Raises PartFailed if it exits or takes too long."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await is_ready():
                if child.process.returncode is not None:
                    raise PartFailed(f"{name} {how_it_ended(child.process.returncode)} while it started")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise PartFailed(f"{name} was not ready after {START_TIMEOUT_S:g} s") from None


async def _first_to_fail(*parts: Awaitable[None]) -> None:
    """Runs `parts` until one of them raises, and raises that exception."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _cancel_on_signal() -> None:
    """Cancels the current task on SIGTERM and SIGINT, so that `finally` blocks stop the processes."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _addresses(settings: StandaloneSettings) -> dict[str, str]:
    names = ("ext_proc_address", "health_address", "xds_address", "admin_address", "metrics_address")
    addresses = {name: getattr(settings, name) for name in (*names, "envoy_admin_address")}
    return {"--" + name.replace("_", "-"): address for name, address in addresses.items() if address is not None}


def _environment() -> dict[str, str]:
    """Returns the environment without the picker's settings, which are passed as flags. Some of them are unknown to
    `picker serve`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


@contextmanager
def _folder(named: Path | None) -> Generator[Path]:
    """Yields `named`, or a temporary folder that is deleted afterwards."""
    if named is not None:
        yield named.resolve()
        return
    temporary = Path(tempfile.mkdtemp(prefix="inference-gateway-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
