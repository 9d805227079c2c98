"""Showing how far a run is: a bar on a terminal, now and then a line elsewhere."""

import contextlib
import time
from collections.abc import Callable, Generator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmark.compare.rounds import CompareProgress

Told = Callable[[str, int, int, int], None]
"""Called with what is running, requests done, their total, and how many of them failed."""

_LINE_INTERVAL_S = 30.0


@contextlib.contextmanager
def shown_progress(console: Console, shown: bool = True) -> Generator[Told]:
    """A function to call after each request, however often."""
    if not shown:
        yield _nothing
    elif console.is_terminal:
        with _bar(console) as bar:
            yield bar
    else:
        yield _Lines(console)


def told_of_comparison(told: Told) -> Callable[[CompareProgress], None]:
    """What `compare` calls, telling `told`."""

    def on_progress(progress: CompareProgress) -> None:
        what = f"round {progress.round_number} of {progress.rounds}, {progress.contender}"
        told(what, progress.leg.done, progress.leg.total, progress.leg.failed)

    return on_progress


def _nothing(what: str, done: int, total: int, failed: int) -> None:
    pass


@contextlib.contextmanager
def _bar(console: Console) -> Generator[Told]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        # Nobody has said yet of how many; the first answer may take a while.
        task = progress.add_task("waiting for the first answer", total=None)

        def told(what: str, done: int, total: int, failed: int) -> None:
            description = f"{what}, {failed} failed" if failed else what
            progress.update(task, description=description, completed=done, total=total)

        yield told


class _Lines:
    """A line every half minute, and one at the end of each thing that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_s = time.monotonic()

    def __call__(self, what: str, done: int, total: int, failed: int) -> None:
        now_s = time.monotonic()
        if done < total and now_s - self._last_s < _LINE_INTERVAL_S:
            return
        self._last_s = now_s
        self._console.print(
            f"{what}: {done} of {total} requests{f', {failed} failed' if failed else ''}", highlight=False
        )
