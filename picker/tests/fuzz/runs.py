"""Runs of all targets in turns, each from a seed of its own, until the time is over."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import structlog

from fuzz.readers import READERS
from fuzz.world import World

MOST_GROWTH_BYTES = 48 << 20
"""Of the process after its first runs. Caches have their bounds, and the allocator keeps some memory."""

CORPUS = Path(__file__).parent / "corpus"
"""A file for each target with seeds that have found something, one a line with what it was."""


@dataclass
class Counts:
    """What was done."""

    runs: dict[str, int] = field(default_factory=dict[str, int])
    streams: int = 0
    messages: int = 0


class Found(AssertionError):
    """A run has failed; the message has the command that repeats it."""


def picks(rng: Random, counts: Counts) -> None:
    """The picker as a whole."""
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
    """Raises Found."""
    counts.runs[target] = counts.runs.get(target, 0) + 1
    try:
        TARGETS[target](Random(seed), counts)
    except Exception as error:
        raise Found(f"{type(error).__name__}: {error}\nrepeat with: make fuzz TARGET={target} SEED={seed}") from error


def run_for(seconds: float, seed: str, targets: Iterable[str] = tuple(TARGETS)) -> Counts:
    """Raises Found, and AssertionError where memory has grown."""
    counts, number, ends_s = Counts(), 0, time.monotonic() + seconds
    settled_bytes = 0
    while time.monotonic() < ends_s:
        for target in targets:
            run_one(target, f"{seed}.{number}", counts)
        number += 1
        if not settled_bytes and time.monotonic() > ends_s - 0.7 * seconds:
            settled_bytes = _memory_bytes()
    grown = _memory_bytes() - settled_bytes if settled_bytes else 0
    assert grown < MOST_GROWTH_BYTES, f"memory has grown by {grown} bytes; repeat with SEED={seed}"
    return counts


def corpus() -> list[tuple[str, str]]:
    """Targets and seeds of runs that have found something."""
    found: list[tuple[str, str]] = []
    for file in sorted(CORPUS.glob("*.txt")):
        lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
        found += [(file.stem, line) for line in lines if line]
    return found


def _memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
