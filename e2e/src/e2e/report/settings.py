"""What `gateway-report` can be told."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.settings.values import whole

LOADS = Path("ci/nightly/kind/nightly.yaml")


@dataclass(frozen=True, slots=True)
class ReportSettings:
    loads: Path
    """A nightly job's settings: its comparisons and rounds."""
    only: tuple[str, ...]
    """Names of comparisons; none: all."""
    rounds: int | None
    out: Path


def read_settings(arguments: Sequence[str]) -> ReportSettings:
    """Exits 2 with a word on wrong usage."""
    parser = argparse.ArgumentParser(
        "gateway-report",
        description="Four A10 and two L20, mocked, behind the tutorial's gateway on this machine: the loads of the "
        "nightly job through both ports in turns, and one report of it all.",
    )
    parser.add_argument("--loads", type=Path, default=LOADS, help="the nightly job's settings (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="of its comparisons (default: all)")
    parser.add_argument("--rounds", type=whole(1), help="in which the ports take turns (default: as the loads say)")
    parser.add_argument("--out", type=Path, default=Path("out/bench-report"), help="folder (default: %(default)s)")
    given = parser.parse_args(list(arguments))
    return ReportSettings(given.loads, tuple(given.only), given.rounds, given.out)
