"""Child processes that end with their parent, with their output in files; free ports; SIGTERM."""

import asyncio
import contextlib
import os
import random
import signal
import socket
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from picker.commands.standalone.children import Child, how_it_ended

Result = TypeVar("Result")
_STOP_GRACE_S = 5.0
"""Judgement: every command here ends within a second of SIGTERM."""
_SELDOM_USED_PORTS = (10_000, 30_000)
_MOST_HELD = 200
_held_ports: deque[socket.socket] = deque()


class ProcessFailed(Exception):
    """A child ended that should not have; the message ends with the last lines it wrote."""


@dataclass(frozen=True, slots=True)
class LoggedChild:
    """A child process whose output goes to a file."""

    child: Child
    log: Path

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> "LoggedChild":
        """Starts `command`, and appends both its outputs to `log`. `environment`: variables beyond this process's."""
        with log.open("ab") as output:
            return cls(await Child.start(name, command, {**os.environ, **(environment or {})}, output), log)

    @property
    def name(self) -> str:
        return self.child.name

    @property
    def process(self) -> Process:
        return self.child.process

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def check(self) -> None:
        """Raises ProcessFailed if it has ended."""
        if (status := self.process.returncode) is not None:
            raise ProcessFailed(f"{self.name} {how_it_ended(status)}:\n{self.last_lines()}")

    async def stop(self) -> None:
        await self.child.stop(_STOP_GRACE_S)


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports without a listener, outside Linux's range of ephemeral ports: an outgoing connection could
    take one of those before its listener starts. The last _MOST_HELD ports are not returned again in this process."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*_SELDOM_USED_PORTS)
        # With SO_REUSEADDR the caller can bind the port beside this socket, which does not listen.
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
    """Those of `ports` that have a listener."""

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
