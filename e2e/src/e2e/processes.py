"""Child processes that never outlive who started them, with their output in files."""

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1
_SELDOM_USED_PORTS = (10_000, 30_000)
_MOST_HELD = 200
_held_ports: deque[socket.socket] = deque()


class ProcessFailed(Exception):
    """A child ended that should not have; the message ends with the last lines it wrote."""


def _die_with_parent() -> None:
    """Linux ends a child with its parent, even when that is killed. Elsewhere Ctrl-C and `stop` have to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Child:
    """A running command."""

    name: str
    process: Process
    log: Path

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> "Child":
        """Start `command`; both its outputs go to `log`. It does not see Ctrl-C: who started it stops it in order."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        return cls(name, process, log)

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def check(self) -> None:
        """Raises ProcessFailed when it has ended."""
        if not self.running:
            raise ProcessFailed(f"{self.name} ended with status {self.process.returncode}:\n{self.last_lines()}")

    async def stop(self, timeout_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL to whatever is left of its session."""
        if self.running:
            self.process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that nobody listened on a moment ago, outside the range from which Linux gives ports to
    outgoing connections: until they are listened on, one of those could take them. Nor is one given to anybody else
    here who asks, as long as it is among the last that this process was given."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*_SELDOM_USED_PORTS)
        # Whoever is given the port can bind it beside this socket, which does not listen; this function cannot.
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            continue
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _held_ports.append(held)
        if len(_held_ports) > _MOST_HELD:
            _held_ports.popleft().close()
        found.append(port)
    return found


def taken(ports: Sequence[int]) -> list[int]:
    """Those of `ports` that somebody listens on."""

    def is_taken(port: int) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return True
            return False

    return [port for port in ports if is_taken(port)]


async def interruptible(command: Coroutine[None, None, Result]) -> Result:
    """SIGTERM ends a command as Ctrl-C does: by leaving every `with` on the way out."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await command
