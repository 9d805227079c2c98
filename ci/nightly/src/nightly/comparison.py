"""One comparison of a nightly run: `benchmark-serving compare` on both ports, judged by earlier runs."""

import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.compare.record import BadHistory, read_record

from nightly.settings import HISTORY, Comparison, Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a comparison."""

    comparison: Comparison
    report: Path
    problems: Sequence[str]
    """A sentence for each problem: a failed request that `benchmark-serving compare` does not tolerate, a missed
    threshold, a regression, or a comparison that did not finish."""

    @property
    def passed(self) -> bool:
        return not self.problems


def arguments(
    comparison: Comparison, settings: Settings, urls: Mapping[int, str], replicas: Mapping[str, str], folder: Path
) -> Sequence[str]:
    """The arguments of `benchmark-serving`. The reports are in `folder`, the history in a file that all runs share."""
    files = folder / comparison.name
    described = [f"--title={comparison.title}", f"--about={comparison.about}"]
    kept = [
        f"--report={files.with_suffix('.html')}",
        f"--json={files.with_suffix('.json')}",
        f"--history={history_of(comparison, Path(settings.keep))}",
        "--fail-on-regression",
    ]
    return ["compare", *flags_of(comparison, settings.rounds, urls, replicas, before=described, after=kept)]


def flags_of(
    comparison: Comparison,
    rounds: int,
    urls: Mapping[int, str],
    replicas: Mapping[str, str],
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> Sequence[str]:
    """The flags of `benchmark-serving compare`.

    The last of several equal flags counts: the load overrides the flags `before` it, and not those `after` it. `urls`
    are by port, `replicas` are URLs of metrics pages by name."""
    return [
        *(f"--target=port {port}={url}" for port, url in urls.items()),
        f"--rounds={rounds}",
        *before,
        *shlex.split(comparison.load),
        *after,
        "--replica-metrics",
        *(f"{name}={url}" for name, url in replicas.items()),
    ]


def history_of(comparison: Comparison, keep: Path) -> Path:
    return keep / HISTORY / f"{comparison.name}.jsonl"


def run(
    comparison: Comparison, settings: Settings, urls: Mapping[int, str], replicas: Mapping[str, str], folder: Path
) -> Outcome:
    """Runs a comparison and waits for its end, at most `settings.compare_timeout_s`.

    Its output is copied to this program's output and to a file in `folder`. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / comparison.name
    command = ["benchmark-serving", *arguments(comparison, settings, urls, replicas, folder)]
    lines: list[str] = []
    with (
        files.with_suffix(".txt").open("w") as kept,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running,
    ):
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            running.kill()

        timer = threading.Timer(settings.compare_timeout_s, stop)
        timer.start()
        try:
            for line in running.stdout or ():
                lines.append(line)
                for output in (kept, sys.stdout):
                    output.write(line)
                    output.flush()
            status = running.wait()
        finally:
            timer.cancel()
            running.kill()
    if timed_out.is_set():
        problems: Sequence[str] = [f"stopped after {settings.compare_timeout_s} s: compareTimeoutS"]
    else:
        problems = _problems(status, files.with_suffix(".json"), lines)
    return Outcome(comparison, files.with_suffix(".html"), problems)


def _problems(status: int, figures: Path, lines: Sequence[str]) -> Sequence[str]:
    """The problems of a comparison with this exit status; empty for 0.

    They are read from the file `figures`. If that gives none, the last of the printed `lines` is the problem."""
    if status == 0:
        return ()
    try:
        recorded = read_record(figures).problems
    except (OSError, BadHistory):
        recorded = ()
    return recorded or (f"exit status {status}: {lines[-1].strip() if lines else 'no output'}",)
