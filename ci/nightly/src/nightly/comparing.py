"""One comparison of a night: `benchmark-serving compare` on both ports, judged by the nights before."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightly.settings import HISTORY, Comparison, Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    comparison: Comparison
    good: bool
    """No more requests failed than `benchmark-serving compare` bears, no aim was missed, and nothing is worse than in
    the last good nights."""
    report: Path


def arguments(
    comparison: Comparison, settings: Settings, urls: Mapping[int, str], replicas: Mapping[str, str], folder: Path
) -> Sequence[str]:
    """Of `benchmark-serving`. The history is in the folder above: one file for all nights."""
    files = folder / comparison.name
    told = [f"--title={comparison.title}", f"--about={comparison.about}", "--disable-tqdm"]
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
    command = ["benchmark-serving", *arguments(comparison, settings, urls, replicas, folder)]
    log = (folder / comparison.name).with_suffix(".txt")
    with log.open("w") as output:
        try:
            status = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=settings.compare_timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            output.write(f"stopped after {settings.compare_timeout_s} s\n")
            status = 1
    sys.stdout.write(log.read_text())
    sys.stdout.flush()
    return Outcome(comparison, status == 0, log.with_suffix(".html"))
