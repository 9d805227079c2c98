"""Settings of `gateway-report`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.settings.values import whole

LOADS = Path("ci/nightly/kind/nightly.yaml")


@dataclass(frozen=True, slots=True)
class ReportSettings:
    loads: Path
    """File with the settings of a nightly job: its comparisons and rounds."""
    only: tuple[str, ...]
    """Names of the comparisons to run. Empty: all."""
    rounds: int | None
    """None: as in `loads`."""
    out: Path


def read_settings(arguments: Sequence[str]) -> ReportSettings:
    """Parses command-line arguments. Exits 2 with a message on wrong usage."""
    parser = argparse.ArgumentParser(
        "gateway-report",
        description="Runs the loads of the nightly job through both ports in turn, and writes one report. The "
        "tutorial's gateway runs on this machine, with mocks of four A10 and two L20.",
    )
    parser.add_argument("--loads", type=Path, default=LOADS, help="the nightly job's settings (default: %(default)s)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="comparison to run; may be repeated (default: all)"
    )
    parser.add_argument("--rounds", type=whole(1), help="rounds, with the ports in turn (default: as in the loads)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/bench-report"), help="folder for the report (default: %(default)s)"
    )
    given = parser.parse_args(list(arguments))
    return ReportSettings(given.loads, tuple(given.only), given.rounds, given.out)
