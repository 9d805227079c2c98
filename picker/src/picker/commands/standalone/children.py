"""Child processes that end with their parent."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Linux sends a child SIGTERM when its parent ends, even by SIGKILL. Elsewhere `stop` has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Child:
    """A running command."""

    name: str
    process: Process

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None = None
    ) -> "Child":
        """Start `command`. Its standard output and error go to `output`, or to its parent's if that is None.

        Raises OSError if the command cannot be run. The child has a session of its own, so that Ctrl-C does not reach
        it: its parent stops it, in order."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),  # uvloop takes no other mapping.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        return cls(name, process)

    async def stop(self, grace_s: float) -> None:
        """Sends SIGTERM, and SIGKILL to its session after `grace_s`. Does nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self.process.wait()
            except TimeoutError:
                os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


def how_it_ended(status: int) -> str:
    """A process's exit status in words."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
