"""Shows the progress of a run: a bar on a terminal, a line from time to time elsewhere."""

import contextlib
import time
from collections.abc import Callable, Generator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmark.compare.rounds import CompareProgress

ReportProgress = Callable[[str, int, int, int], None]
"""Called with the name of the run, requests done, requests in all, and failed requests."""

_LINE_INTERVAL_S = 30.0
"""Judgement: a log of an hour stays readable."""


@contextlib.contextmanager
def shown_progress(console: Console, shown: bool = True) -> Generator[ReportProgress]:
    """Yields a function to call after each request. It limits its own output."""
    if not shown:
        yield _nothing
    elif console.is_terminal:
        with _bar(console) as bar:
            yield bar
    else:
        yield _Lines(console)


def comparison_progress(report: ReportProgress) -> Callable[[CompareProgress], None]:
    """Adapts `report` to the progress of `compare`."""

    def on_progress(progress: CompareProgress) -> None:
        what = f"round {progress.round_number} of {progress.rounds}, {progress.contender}"
        report(what, progress.run.done, progress.run.total, progress.run.failed)

    return on_progress


def _nothing(what: str, done: int, total: int, failed: int) -> None:
    pass


@contextlib.contextmanager
def _bar(console: Console) -> Generator[ReportProgress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        # The total is unknown until the first response, which may take a while.
        task = progress.add_task("waiting for the first answer", total=None)

        def report(what: str, done: int, total: int, failed: int) -> None:
            description = f"{what}, {failed} failed" if failed else what
            progress.update(task, description=description, completed=done, total=total)

        yield report


class _Lines:
    """Prints a line every `_LINE_INTERVAL_S`, and one at the end of each run."""

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
