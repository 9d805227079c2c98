"""The settings of each command."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmark.compare.thresholds import Threshold
from benchmark.replicas.watch import Replica
from benchmark.results.printed import DEFAULT_LATENCIES, Latency
from benchmark.results.summary import Goals
from benchmark.settings.load import LoadSettings, add_load_flags, read_load
from benchmark.settings.values import goal, pair, percentile, split, threshold, whole


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
    """Pairs of name and base URL."""
    rounds: int
    plot: Path | None
    report: Path | None
    json: Path | None
    history: Path | None
    fail_on_regression: bool
    thresholds: tuple[Threshold, ...]
    title: str | None
    about: str
    shown_flags: tuple[tuple[str, str], ...]
    """Flags that differ from their defaults, as name and value, for the report."""


def read_serve(arguments: Sequence[str]) -> ServeSettings:
    """Parses the flags of a single run. As argparse, exits 2 with an error message on wrong usage, and 0 after
    --help."""
    parser = argparse.ArgumentParser(
        "benchmark-serving",
        usage="benchmark-serving [flags]",
        description="Benchmark an OpenAI-compatible server with the flags, the summary and the result file of vLLM's "
        "benchmark_serving.py. `benchmark-serving compare` runs two servers in turns and judges the difference.",
        allow_abbrev=False,
    )
    where = parser.add_argument_group("address")
    where.add_argument("--base-url", help="scheme, host and port; replaces --host and --port")
    where.add_argument("--host", default="127.0.0.1")
    where.add_argument("--port", type=int, default=8000)
    add_load_flags(parser)
    shown = parser.add_argument_group("output")
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
        help="upper bounds of a good request, of ttft, tpot and e2el, such as ttft:300 tpot:40",
    )
    shown.add_argument("--save-result", action="store_true", help="write the figures to a JSON file")
    shown.add_argument("--save-detailed", action="store_true", help="add lists with an entry for each request")
    shown.add_argument("--result-dir", type=Path, default=Path(), help="folder of the file (default: this one)")
    shown.add_argument("--result-filename", help="name of the file (default: of backend, rate, model and date)")
    shown.add_argument("--label", help="a field of the file, and the beginning of its default name")
    shown.add_argument("--metadata", nargs="*", type=pair, default=[], metavar="KEY=VALUE", help="fields of the file")
    shown.add_argument("--request-id-prefix", help="prefix of the header X-Request-ID (default: bench-<8 hex>-)")
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
    """Parses the flags of a comparison. As argparse, exits 2 with an error message on wrong usage, and 0 after
    --help."""
    parser = argparse.ArgumentParser(
        "benchmark-serving compare",
        usage="benchmark-serving compare --target NAME=URL --target NAME=URL [flags]",
        description="Send the same load to several targets in turns, round by round, and report which figures differ "
        "by more than noise. Exits 1 if requests failed (any of a target after the first, or more than one in a "
        "hundred of the first), if an --aim was missed, or if a figure is a regression and --fail-on-regression is "
        "given. Exits 0 otherwise, whatever the figures.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("comparison")
    what.add_argument(
        "--target",
        action="append",
        required=True,
        type=pair,
        metavar="NAME=URL",
        help="a server to compare; needed twice or more, and ratios are to the first",
    )
    what.add_argument(
        "--rounds",
        type=whole(1),
        default=4,  # The fewest that show a 10 % difference through noise of 5 %, and reverse the order twice.
        help="each round runs every target; use an even number, so that each goes first equally often (default: 4)",
    )
    what.add_argument(
        "--aim",
        action="append",
        default=[],
        type=threshold,
        metavar="FIGURE<=RATIO",
        help="a threshold for the ratio to the first, such as 'TTFT p50<=0.5' or 'Output throughput>=1.5'; if it is "
        "missed, the exit status is 1",
    )
    _add_kept_flags(parser)
    add_load_flags(parser)
    given = parser.parse_args(arguments)
    names = [name for name, _ in given.target]
    if len(names) < 2 or len(set(names)) < len(names):
        parser.error(f"--target: found {', '.join(names)}; required are two or more, with different names")
    if given.fail_on_regression and given.history is None:
        parser.error("--fail-on-regression: requires --history")
    return CompareSettings(
        load=read_load(parser, given),
        targets=tuple(given.target),
        rounds=given.rounds,
        plot=given.plot,
        report=given.report,
        json=given.json,
        history=given.history,
        fail_on_regression=given.fail_on_regression,
        thresholds=tuple(given.aim),
        title=given.title,
        about=given.about,
        shown_flags=_flags(parser, given),
    )


def _add_kept_flags(parser: argparse.ArgumentParser) -> None:
    kept = parser.add_argument_group("output files")
    kept.add_argument("--report", type=Path, metavar="HTML", help="one page: conclusions, table, plots, settings")
    kept.add_argument("--title", help="title of the report (default: the targets' names)")
    kept.add_argument("--about", default="", metavar="TEXT", help="a paragraph of the report: what is shown, and why")
    kept.add_argument("--plot", type=Path, metavar="PNG", help="plot of the replicas' KV cache utilisation")
    kept.add_argument("--json", type=Path, help="all figures, round by round")
    kept.add_argument(
        "--history",
        type=Path,
        metavar="JSONL",
        help="file of earlier comparisons: this one is judged by the last good ones of the same load, and appended",
    )
    kept.add_argument("--fail-on-regression", action="store_true", help="exit 1 if it is worse than those")


def _flags(parser: argparse.ArgumentParser, given: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Each flag that differs from its default, with its value as typed."""
    flags: list[tuple[str, str]] = []
    for name, value in vars(given).items():
        if name in ("title", "about") or value == parser.get_default(name):
            continue
        # Headers may hold credentials, and reports are passed on.
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
        case Threshold(figure, bound, at_most):
            return f"'{figure.name}{'<=' if at_most else '>='}{bound:g}'"
        case _:
            return str(value)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
