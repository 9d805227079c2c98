"""Child processes that end with their parent."""

import asyncio
import contextlib
import ctypes
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Linux sends a child SIGTERM when its parent ends, even by SIGKILL. Elsewhere `stop` has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Child:
    """A running command that writes where its parent writes."""

    name: str
    process: Process

    @classmethod
    async def start(cls, name: str, command: Sequence[str], environment: Mapping[str, str]) -> "Child":
        """Raises OSError when the command cannot be run. The child does not see Ctrl-C: its parent stops it, in
        order."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        return cls(name, process)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`. One that has ended already is left in peace."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        await self.process.wait()


def how_it_ended(status: int) -> str:
    """A process's exit status in words."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
