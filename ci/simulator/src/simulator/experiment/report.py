"""Prints results as tables, and writes them as JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table

from simulator.experiment.measures import LOWER_IS_BETTER, MEASURES, Estimate, Measures, estimate, values_of
from simulator.experiment.runner import Results
from simulator.schedulers.registry import LEAST_REQUEST, PERFECT_INFORMATION, WEIGHTED_SCORERS


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    measure: str
    show: Callable[[float], str]
    interval: bool = False


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


COLUMNS = (
    # The second line of a title is the unit.
    _Column("TTFT p50\ns", "ttft_p50_s", _seconds),
    _Column("TTFT p90\ns", "ttft_p90_s", _seconds, interval=True),
    _Column("TTFT p99\ns", "ttft_p99_s", _seconds),
    _Column("TPOT p50\nms", "tpot_p50_s", _milliseconds),
    _Column("TPOT p90\nms", "tpot_p90_s", _milliseconds),
    _Column("TPOT p99\nms", "tpot_p99_s", _milliseconds),
    _Column("e2e p50\ns", "e2e_p50_s", _seconds),
    _Column("e2e p90\ns", "e2e_p90_s", _seconds),
    _Column("e2e p99\ns", "e2e_p99_s", _seconds),
    _Column("output\ntokens/s", "tokens_per_s", "{:.0f}".format, interval=True),
    _Column("goodput\nreq/s", "goodput_per_s", "{:.2f}".format, interval=True),
    _Column("hits\n%", "hit_ratio", _percent),
    _Column("TTFT error\n%", "ttft_error", _percent),
    _Column("KV spread\n0 to 1", "kv_spread", "{:.2f}".format),
    _Column("preempted\ntimes", "preemptions", "{:.0f}".format),
    _Column("shed\n%", "shed", _percent),
    _Column("failed\n%", "failed", _percent),
    _Column("scrapes\n/s", "scrapes_per_s", "{:.1f}".format),
)

COMPARED = (("ttft_p90_s", "TTFT p90"), ("tokens_per_s", "tokens/s"), ("goodput_per_s", "goodput"))
AGAINST = (LEAST_REQUEST, WEIGHTED_SCORERS, PERFECT_INFORMATION)
"""Schedulers that our strategies are compared with, by the measures of `COMPARED`."""


class Verdict(StrEnum):
    """The comparison of two schedulers, by the interval of their difference seed by seed."""

    BETTER = "better"
    EQUAL = "equal"
    WORSE = "worse"


def compare(measure: str, ours: Sequence[Measures], theirs: Sequence[Measures]) -> Verdict:
    """Compares one measure. EQUAL means that the 95 % interval of the difference contains 0."""
    difference = difference_of(measure, ours, theirs)
    if abs(difference.mean) <= difference.half_width or difference.mean == 0:
        return Verdict.EQUAL
    return Verdict.BETTER if (difference.mean < 0) == (measure in LOWER_IS_BETTER) else Verdict.WORSE


def difference_of(measure: str, ours: Sequence[Measures], theirs: Sequence[Measures]) -> Estimate:
    """The mean difference of one measure, seed by seed."""
    return estimate([getattr(a, measure) - getattr(b, measure) for a, b in zip(ours, theirs, strict=True)])


def print_tables(results: Results, console: Console) -> None:
    """Prints a table for each scenario."""
    for scenario, rows in results.items():
        console.print(_table(scenario, rows))


def _table(scenario: str, rows: Mapping[str, Sequence[Measures]]) -> Table:
    table = Table(title=f"\n{scenario}", title_justify="left", box=None, padding=(0, 1), collapse_padding=True)
    table.add_column("strategy", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.title, justify="right", no_wrap=True)
    for name, measures in rows.items():
        cells = [_cell(column, measures) for column in COLUMNS]
        table.add_row(name, *cells)
    return table


def _cell(column: _Column, measures: Sequence[Measures]) -> str:
    found = estimate(values_of(measures, column.measure))
    shown = column.show(found.mean)
    return f"{shown} ±{column.show(found.half_width)}" if column.interval and found.half_width else shown


def print_summary(results: Results, ours: Sequence[str], console: Console) -> None:
    """Prints the ratios of each of our strategies to the others, in a row for each scenario."""
    for name in ours:
        run = {other for rows in results.values() for other in rows}
        others = [other for other in AGAINST if other != name and other in run]
        if not others:
            continue
        title = f"\n{name} against others: ratios; + better, - worse beyond the 95 % interval"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
        table.add_column("scenario", no_wrap=True)
        for other in others:
            for _, measure in COMPARED:
                table.add_column(f"{measure} /\n{other}", justify="right", no_wrap=True)
        for scenario, rows in results.items():
            if name not in rows:
                continue
            cells = [
                _colored_ratio(measure, rows[name], rows.get(other)) for other in others for measure, _ in COMPARED
            ]
            table.add_row(scenario, *cells)
        console.print(table)


MARKS = {Verdict.BETTER: "+", Verdict.EQUAL: "", Verdict.WORSE: "-"}
COLORS = {Verdict.BETTER: "green", Verdict.WORSE: "red"}


def ratio(measure: str, ours: Sequence[Measures], theirs: Sequence[Measures]) -> str:
    """The ratio of the means, with the verdict's mark; `-` if theirs is 0."""
    numerator = estimate(values_of(ours, measure)).mean
    denominator = estimate(values_of(theirs, measure)).mean
    return f"{numerator / denominator:.2f}{MARKS[compare(measure, ours, theirs)]}" if denominator else "-"


def _colored_ratio(measure: str, ours: Sequence[Measures], theirs: Sequence[Measures] | None) -> str:
    if theirs is None:
        return ""
    shown, color = ratio(measure, ours, theirs), COLORS.get(compare(measure, ours, theirs))
    return f"[{color}]{shown}[/]" if color else f"{shown} "


def write_json(results: Results, path: Path) -> None:
    """Writes every measure of every seed, with means and intervals. Raises OSError."""
    document = {
        scenario: {
            name: {
                "seeds": [asdict(run) for run in measures],
                "estimates": {measure: asdict(estimate(values_of(measures, measure))) for measure in MEASURES},
            }
            for name, measures in rows.items()
        }
        for scenario, rows in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
