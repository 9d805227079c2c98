"""One comparison of a night: `benchmark-serving compare` on both ports, judged by the nights before."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightly.settings import Comparison, Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    comparison: Comparison
    good: bool
    """No request failed, and nothing is worse than in the last good nights."""
    report: Path


def arguments(
    comparison: Comparison, settings: Settings, urls: Mapping[int, str], replicas: Mapping[str, str], folder: Path
) -> Sequence[str]:
    """Of `benchmark-serving`. The history is in the folder above: one file for all nights."""
    files = folder / comparison.name
    return [
        "compare",
        *(f"--target=port {port}={url}" for port, url in urls.items()),
        f"--rounds={settings.rounds}",
        f"--title={comparison.title}",
        f"--about={comparison.about}",
        "--disable-tqdm",
        *shlex.split(comparison.load),
        f"--report={files.with_suffix('.html')}",
        f"--json={files.with_suffix('.json')}",
        f"--history={history_of(comparison, Path(settings.keep))}",
        "--fail-on-regression",
        "--replica-metrics",
        *(f"{name}={url}" for name, url in replicas.items()),
    ]


def history_of(comparison: Comparison, keep: Path) -> Path:
    return keep / "history" / f"{comparison.name}.jsonl"


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
