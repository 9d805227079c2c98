"""The settings of `gateway-dashboards`."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from observability.dashboards import DASHBOARDS

CHART_FILES = Path("charts/inference-gateway/files")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Generate:
    """`gateway-dashboards generate`."""

    folder: Path


@dataclass(frozen=True, slots=True)
class Metrics:
    """`gateway-dashboards metrics`."""


@dataclass(frozen=True, slots=True)
class Draw:
    """`gateway-dashboards draw`."""

    prometheus: str
    dashboards: tuple[str, ...]
    last_s: float
    out: Path


Command = Generate | Metrics | Draw


def read_settings(arguments: Sequence[str]) -> Command:
    """Parses the flags. As argparse, exits 2 with an error message on wrong usage, and 0 after --help."""
    parser = argparse.ArgumentParser(
        "gateway-dashboards", description="Dashboards and alerts of the inference gateway."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help="write Grafana's JSON and Prometheus' rules into the chart")
    generate.add_argument("--folder", type=Path, default=CHART_FILES, help=f"default: {CHART_FILES}")
    commands.add_parser("metrics", help="print the names of all metrics that dashboards and rules read")
    draw = commands.add_parser("draw", help="draw the dashboards as PNG and HTML, without Grafana")
    uids = [dashboard.uid for dashboard in DASHBOARDS]
    draw.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL", help="default: %(default)s")
    draw.add_argument("--dashboard", action="append", choices=uids, help="a dashboard; repeatable (default: all)")
    draw.add_argument("--last", type=_duration_s, default="30m", help="time span, such as 90s or 2h (default: 30m)")
    draw.add_argument("--out", type=Path, default=Path("out/dashboard"), help="folder (default: %(default)s)")
    given = parser.parse_args(list(arguments))
    match given.command:
        case "generate":
            return Generate(given.folder)
        case "metrics":
            return Metrics()
        case _:
            return Draw(given.prometheus, tuple(given.dashboard or uids), given.last, given.out)


def _duration_s(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a number above 0 and s, m, h or d, such as 15m")
    return float(int(found[1]) * _UNITS_S[found[2]])
