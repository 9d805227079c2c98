"""Child processes: their output, and how they are stopped."""

import asyncio
import os
from pathlib import Path

from picker.commands.standalone.children import Child, how_it_ended

DESCENDANT = "sleep 600 & echo $!; wait"


async def start(folder: Path, script: str) -> Child:
    with (folder / "log").open("ab") as output:
        return await Child.start("sh", ["sh", "-c", script], os.environ, output)


async def first_line(file: Path) -> str:
    async with asyncio.timeout(20):
        while not (text := file.read_text()).endswith("\n"):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    return text.strip()


async def test_both_outputs_go_to_the_given_file(tmp_path: Path) -> None:
    child = await start(tmp_path, "echo out; echo error >&2")
    assert await child.process.wait() == 0
    assert (tmp_path / "log").read_text() == "out\nerror\n"


async def test_a_child_that_ends_at_sigterm_is_not_killed(tmp_path: Path) -> None:
    child = await start(tmp_path, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done")
    await first_line(tmp_path / "log")
    await child.stop(20.0)
    assert child.process.returncode == 3


async def test_a_child_that_ignores_sigterm_is_killed_with_its_descendants(tmp_path: Path) -> None:
    child = await start(tmp_path, f"trap '' TERM; {DESCENDANT}")
    descendant = int(await first_line(tmp_path / "log"))
    await child.stop(0.0)
    assert how_it_ended(child.process.returncode or 0) == "killed by SIGKILL"
    assert await ends(descendant)


async def test_stopping_a_child_that_has_ended_does_nothing(tmp_path: Path) -> None:
    child = await start(tmp_path, "exit 4")
    await child.process.wait()
    await child.stop(0.0)
    assert child.process.returncode == 4


async def ends(pid: int) -> bool:
    """Waits until a process is gone, or is a zombie that its new parent has not reaped."""
    stat = Path(f"/proc/{pid}/stat")
    async with asyncio.timeout(20):
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":  # noqa: ASYNC110 - not our child
            await asyncio.sleep(0.01)
    return True
