"""Runs of all targets in rotation, each with its own seed, until the time is over."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import structlog

from fuzz.readers import READERS
from fuzz.world import World

MAX_GROWTH_BYTES = 48 << 20
"""Limit on the memory growth of the process after its first runs. Judgement: caches are bounded, and the allocator
keeps some memory."""

CORPUS = Path(__file__).parent / "corpus"
"""The corpus: a file for each target with seeds of past failures, one per line with the failure."""


@dataclass
class Counts:
    """Numbers of runs, streams and messages."""

    runs: dict[str, int] = field(default_factory=dict[str, int])
    streams: int = 0
    messages: int = 0


class FuzzFailure(AssertionError):
    """A run has failed; the message has the command that repeats it."""


def picks(rng: Random, counts: Counts) -> None:
    """Uses the whole picker."""
    world = World(rng)
    with structlog.testing.capture_logs() as logs:
        world.run()
    errors = [line for line in logs if line["log_level"] in ("error", "critical")]
    assert not errors, errors[0]
    counts.streams += world.streams
    counts.messages += world.messages


def _reading(reader: Callable[[Random], None]) -> Callable[[Random, Counts], None]:
    return lambda rng, _counts: reader(rng)


TARGETS: Mapping[str, Callable[[Random, Counts], None]] = {
    "picks": picks,
    **{reader.__name__: _reading(reader) for reader in READERS},
}


def run_one(target: str, seed: str, counts: Counts) -> None:
    """Runs one target with `seed`. Raises FuzzFailure."""
    counts.runs[target] = counts.runs.get(target, 0) + 1
    try:
        TARGETS[target](Random(seed), counts)
    except Exception as error:
        raise FuzzFailure(
            f"{type(error).__name__}: {error}\nrepeat with: make fuzz TARGET={target} SEED={seed}"
        ) from error


def run_for(seconds: float, seed: str, targets: Iterable[str] = tuple(TARGETS)) -> Counts:
    """Runs the targets for `seconds`. Raises FuzzFailure, and AssertionError if memory has grown."""
    counts, number, ends_s = Counts(), 0, time.monotonic() + seconds
    baseline_bytes = 0
    while time.monotonic() < ends_s:
        for target in targets:
            run_one(target, f"{seed}.{number}", counts)
        number += 1
        if not baseline_bytes and time.monotonic() > ends_s - 0.7 * seconds:
            baseline_bytes = _memory_bytes()
    growth_bytes = _memory_bytes() - baseline_bytes if baseline_bytes else 0
    assert growth_bytes < MAX_GROWTH_BYTES, f"memory has grown by {growth_bytes} bytes; repeat with SEED={seed}"
    return counts


def corpus() -> list[tuple[str, str]]:
    """Returns targets and seeds of past failures."""
    entries: list[tuple[str, str]] = []
    for file in sorted(CORPUS.glob("*.txt")):
        lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
        entries += [(file.stem, line) for line in lines if line]
    return entries


def _memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
