"""One comparison of a night: `benchmark-serving compare` on both ports, judged by the nights before."""

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
    comparison: Comparison
    report: Path
    problems: Sequence[str]
    """A sentence each: more requests failed than `benchmark-serving compare` bears, an aim was missed, a figure is
    worse than in the last good nights, or the comparison did not come to its end."""

    @property
    def good(self) -> bool:
        return not self.problems


def arguments(
    comparison: Comparison, settings: Settings, urls: Mapping[int, str], replicas: Mapping[str, str], folder: Path
) -> Sequence[str]:
    """Of `benchmark-serving`. The history is in the folder above: one file for all nights."""
    files = folder / comparison.name
    told = [f"--title={comparison.title}", f"--about={comparison.about}"]
    kept = [
        f"--report={files.with_suffix('.html')}",
        f"--json={files.with_suffix('.json')}",
        f"--history={history_of(comparison, Path(settings.keep))}",
        "--fail-on-regression",
    ]
    return ["compare", *flags_of(comparison, settings.rounds, urls, replicas, before=told, after=kept)]


def flags_of(
    comparison: Comparison,
    rounds: int,
    urls: Mapping[int, str],
    replicas: Mapping[str, str],
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> Sequence[str]:
    """Of `benchmark-serving compare`: of two that say different things the later one counts, so the load may overrule
    those `before` it and not those `after` it. `urls` by port; `replicas`: metrics pages by name."""
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
    """Takes as long as it takes, up to the setting. What it prints goes to this program's output and to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / comparison.name
    command = ["benchmark-serving", *arguments(comparison, settings, urls, replicas, folder)]
    lines: list[str] = []
    with (
        files.with_suffix(".txt").open("w") as kept,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running,
    ):
        too_late = threading.Event()

        def stop() -> None:
            too_late.set()
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
    if too_late.is_set():
        problems: Sequence[str] = [f"stopped after {settings.compare_timeout_s} s: compareTimeoutS"]
    else:
        problems = _problems(status, files.with_suffix(".json"), lines)
    return Outcome(comparison, files.with_suffix(".html"), problems)


def _problems(status: int, figures: Path, lines: Sequence[str]) -> Sequence[str]:
    """None where the status is 0. `lines`: what the comparison printed; where it has no figures, the last tells why."""
    if status == 0:
        return ()
    try:
        told = read_record(figures).problems
    except (OSError, BadHistory):
        told = ()
    return told or (f"exit status {status}: {lines[-1].strip() if lines else 'without a word'}",)
