"""The settings of each command."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmark.compare.aims import Aim
from benchmark.replicas.watch import Replica
from benchmark.results.printed import DEFAULT_LATENCIES, Latency
from benchmark.results.summary import Goals
from benchmark.settings.load import LoadSettings, add_load_flags, read_load
from benchmark.settings.values import aim, goal, pair, percentile, split, whole


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """`benchmark-serving [flags]`."""

    load: LoadSettings
    base_url: str
    latencies: tuple[Latency, ...]
    percentiles: tuple[float, ...]
    goals: Goals
    save_result: bool
    save_detailed: bool
    result_dir: Path
    result_filename: str | None
    label: str | None
    metadata: tuple[tuple[str, str], ...]
    request_id_prefix: str | None


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """`benchmark-serving compare [flags]`."""

    load: LoadSettings
    targets: tuple[tuple[str, str], ...]
    """Names and base URLs."""
    rounds: int
    plot: Path | None
    report: Path | None
    json: Path | None
    history: Path | None
    fail_on_regression: bool
    aims: tuple[Aim, ...]
    title: str | None
    about: str
    told: tuple[tuple[str, str], ...]
    """The other flags that are not at their defaults, for the report."""


def read_serve(arguments: Sequence[str]) -> ServeSettings:
    """Exits 2 with a sentence on wrong usage, and 0 after --help, as argparse does."""
    parser = argparse.ArgumentParser(
        "benchmark-serving",
        usage="benchmark-serving [flags]",
        description="Benchmark an OpenAI-compatible server: vLLM's benchmark_serving.py, with its flags, its summary "
        "and its result file. `benchmark-serving compare` runs two servers in turns and judges the difference.",
        allow_abbrev=False,
    )
    where = parser.add_argument_group("where")
    where.add_argument("--base-url", help="scheme, host and port in one; instead of --host and --port")
    where.add_argument("--host", default="127.0.0.1")
    where.add_argument("--port", type=int, default=8000)
    add_load_flags(parser)
    shown = parser.add_argument_group("what is shown and saved")
    shown.add_argument(
        "--percentile-metrics",
        type=split(Latency),
        default=DEFAULT_LATENCIES,
        metavar="LIST",
        help="latencies to show, of ttft,tpot,itl,e2el (default: the first three)",
    )
    shown.add_argument(
        "--metric-percentiles",
        type=split(percentile),
        default=(99.0,),
        metavar="LIST",
        help="percentiles to show, such as 50,90,99 (default: 99)",
    )
    shown.add_argument(
        "--goodput",
        nargs="+",
        type=goal,
        default=[],
        metavar="METRIC:MS",
        help="what a good request stays within, of ttft, tpot and e2el, such as ttft:300 tpot:40",
    )
    shown.add_argument("--save-result", action="store_true", help="write a JSON file of the figures")
    shown.add_argument("--save-detailed", action="store_true", help="with lists that have an entry for each request")
    shown.add_argument("--result-dir", type=Path, default=Path(), help="folder for it (default: this one)")
    shown.add_argument("--result-filename", help="instead of a name made of backend, rate, model and date")
    shown.add_argument("--label", help="begins the file's name, and stands in it")
    shown.add_argument("--metadata", nargs="*", type=pair, default=[], metavar="KEY=VALUE", help="goes into it")
    shown.add_argument("--request-id-prefix", help="of the header X-Request-ID (default: bench-<8 hex>-)")
    given = parser.parse_args(arguments)
    return ServeSettings(
        load=read_load(parser, given),
        base_url=given.base_url or f"http://{_bracketed(given.host)}:{given.port}",
        latencies=given.percentile_metrics,
        percentiles=given.metric_percentiles,
        goals=Goals(**{f"{name}_ms": value for name, value in given.goodput}),
        save_result=given.save_result or given.save_detailed,
        save_detailed=given.save_detailed,
        result_dir=given.result_dir,
        result_filename=given.result_filename,
        label=given.label,
        metadata=tuple(given.metadata),
        request_id_prefix=given.request_id_prefix,
    )


def read_compare(arguments: Sequence[str]) -> CompareSettings:
    """Exits 2 with a sentence on wrong usage, and 0 after --help, as argparse does."""
    parser = argparse.ArgumentParser(
        "benchmark-serving compare",
        usage="benchmark-serving compare --target NAME=URL --target NAME=URL [flags]",
        description="Send the same load to several targets in turns, round by round, and say which figures differ by "
        "more than noise. Exits 1 when requests failed (any of a target after the first, or more than one in a hundred "
        "of the first), an --aim was missed, or a figure is a regression and --fail-on-regression is given; else 0 "
        "whatever the figures.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--target",
        action="append",
        required=True,
        type=pair,
        metavar="NAME=URL",
        help="twice or more: ratios are to the first",
    )
    what.add_argument(
        "--rounds",
        type=whole(1),
        default=4,  # The fewest that see a 10 % difference through a noise of 5 %, and turn the order twice.
        help="of all targets each; even, so that each goes first equally often (default: 4)",
    )
    what.add_argument(
        "--aim",
        action="append",
        default=[],
        type=aim,
        metavar="FIGURE<=RATIO",
        help="what the others' ratio to the first shall be, such as 'TTFT p50<=0.5' or 'Output throughput>=1.5'; a "
        "missed one makes the exit status 1",
    )
    _add_kept_flags(parser)
    add_load_flags(parser)
    given = parser.parse_args(arguments)
    names = [name for name, _ in given.target]
    if len(names) < 2 or len(set(names)) < len(names):
        parser.error(f"--target: found {', '.join(names)}; needed are two or more, of different names")
    if given.fail_on_regression and given.history is None:
        parser.error("--fail-on-regression: needed with it is --history")
    return CompareSettings(
        load=read_load(parser, given),
        targets=tuple(given.target),
        rounds=given.rounds,
        plot=given.plot,
        report=given.report,
        json=given.json,
        history=given.history,
        fail_on_regression=given.fail_on_regression,
        aims=tuple(given.aim),
        title=given.title,
        about=given.about,
        told=_flags(parser, given),
    )


def _add_kept_flags(parser: argparse.ArgumentParser) -> None:
    kept = parser.add_argument_group("what is kept")
    kept.add_argument("--report", type=Path, metavar="HTML", help="one page: conclusions, table, pictures, settings")
    kept.add_argument("--title", help="of the report (default: the targets' names)")
    kept.add_argument("--about", default="", metavar="TEXT", help="a paragraph of the report: what is shown, and why")
    kept.add_argument("--plot", type=Path, metavar="PNG", help="picture of the replicas' KV cache utilisation")
    kept.add_argument("--json", type=Path, help="all figures, round by round")
    kept.add_argument(
        "--history",
        type=Path,
        metavar="JSONL",
        help="file of earlier comparisons: this one is judged by the last good ones of the same load, and added",
    )
    kept.add_argument("--fail-on-regression", action="store_true", help="exit 1 when it is worse than they were")


def _flags(parser: argparse.ArgumentParser, given: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Each flag that is not at its default, as it would be typed."""
    flags: list[tuple[str, str]] = []
    for name, value in vars(given).items():
        if name in ("title", "about") or value == parser.get_default(name):
            continue
        # Headers may hold credentials; a report is shown around.
        flags.append((f"--{name.replace('_', '-')}", "..." if name == "header" else _typed(value)))
    return tuple(flags)


def _typed(value: object) -> str:
    match value:
        case list():
            return " ".join(map(_typed, cast("list[object]", value)))
        case (str() as name, str() as text):
            return f"{name}={text}"
        case Replica(name, url):
            return f"{name}={url}"
        case Aim(figure, bound, at_most):
            return f"'{figure.name}{'<=' if at_most else '>='}{bound:g}'"
        case _:
            return str(value)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
