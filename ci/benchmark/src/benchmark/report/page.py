"""The report of comparisons: one HTML page without external files."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmark.compare.history import baseline_sentence, compare_with_baseline
from benchmark.compare.record import Record
from benchmark.compare.rounds import Comparison
from benchmark.compare.table import conclusions, figure_name, format_value, ratio_cells
from benchmark.compare.thresholds import ThresholdResult
from benchmark.compare.verdict import FIGURES_BY_NAME, judge
from benchmark.report.plots import kv_usage_figure, latency_figure, throughput_figure

_ENVIRONMENT = Environment(
    loader=PackageLoader("benchmark", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    conclusion: str = ""
    """CSS class of the cell, which sets its colour."""


@dataclass(frozen=True, slots=True)
class _Plot:
    title: str
    caption: str
    """How to read the plot."""
    data: str
    """The SVG in base64."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A comparison, and what the page shows with it."""

    comparison: Comparison
    record: Record
    settings: Sequence[tuple[str, str]]
    """Names and values, shown unchanged."""
    past: Sequence[Record] | None = None
    """The earlier runs that it was judged by; None without a history."""
    thresholds: Sequence[ThresholdResult] = ()
    title: str | None = None
    """None means the contenders' names."""
    about: str = ""
    """A paragraph on what is compared, and why."""


def save_report(path: Path, chapters: Sequence[Chapter], title: str | None = None) -> None:
    """Writes the page and creates its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_html(chapters, title), encoding="utf-8")


def report_html(chapters: Sequence[Chapter], title: str | None = None) -> str:
    """The page. Each chapter has conclusions, figures, plots, rounds and settings. The default of `title` is the title
    of the first chapter."""
    contexts = [_chapter_context(chapter) for chapter in chapters]
    return _ENVIRONMENT.get_template("page.html.j2").render(title=title or contexts[0]["title"], chapters=contexts)


def _chapter_context(chapter: Chapter) -> Mapping[str, object]:
    """The template's variables for a chapter."""
    comparison = chapter.comparison
    contenders = " and ".join(contender.name for contender in comparison.plan.contenders)
    return {
        "title": chapter.title or f"{contenders} under the same load",
        "about": chapter.about,
        "record": chapter.record,
        "conclusions": list(conclusions(comparison)),
        "thresholds": chapter.thresholds,
        "baseline_sentence": baseline_sentence(chapter.past) if chapter.past is not None else "",
        "baseline": _baseline(chapter.record, chapter.past or ()),
        "header": _header(comparison),
        "rows": _rows(comparison),
        "plots": _plots(comparison),
        "rounds": _each_round(comparison),
        "settings": chapter.settings,
    }


def _header(comparison: Comparison) -> list[str]:
    first, *others = comparison.plan.contenders
    cells = ["", first.name]
    for contender in others:
        cells += [contender.name, f"{contender.name} / {first.name}", "95 % interval", ""]
    return cells


def _rows(comparison: Comparison) -> list[list[_Cell]]:
    rows: list[list[_Cell]] = []
    for row in judge(comparison):
        cells = [_Cell(figure_name(row.figure)), _Cell(format_value(row.means[0], row.figure))]
        for mean, ratio in zip(row.means[1:], row.ratios, strict=True):
            ratio_text, interval = ratio_cells(ratio)
            cells += [_Cell(format_value(mean, row.figure)), _Cell(ratio_text), _Cell(interval)]
            cells.append(_Cell(ratio.conclusion, ratio.conclusion.name.lower().replace("_", "-")))
        rows.append(cells)
    return rows


def _each_round(comparison: Comparison) -> list[list[str]]:
    """A row for each figure and contender: its value in every round."""
    return [
        [
            figure_name(row.figure),
            contender.name,
            *(format_value(row.figure.of(run), row.figure) for run in comparison.runs_of(index)),
        ]
        for row in judge(comparison)
        for index, contender in enumerate(comparison.plan.contenders)
    ]


def _baseline(record: Record, past: Sequence[Record]) -> list[list[_Cell]]:
    """A row for each figure and contender: its value, its mean in earlier runs, and its usual range."""
    lines: list[list[_Cell]] = []
    for row in compare_with_baseline(record, past):
        figure = FIGURES_BY_NAME.get(row.figure.name)
        if figure is None:
            continue
        usual = "-" if row.usual is None else " - ".join(format_value(bound, figure) for bound in row.usual)
        ratio = f"{row.figure.mean / row.mean:.3f}" if row.mean > 0 else "-"
        lines.append(
            [
                _Cell(figure_name(figure)),
                _Cell(row.contender, "text"),
                _Cell(format_value(row.figure.mean, figure), "worse" if row.worse else ""),
                _Cell(format_value(row.mean, figure)),
                _Cell(ratio),
                _Cell(usual),
            ]
        )
    return lines


def _plots(comparison: Comparison) -> list[_Plot]:
    last = comparison.rounds[-1]
    plots = [
        _plot(
            "Time to first token and time per output token",
            "Share of requests that took at most this time; further left is faster. A bold line shows all rounds, a "
            "thin line one round. Where the thin lines of two targets cross, the difference is noise.",
            latency_figure(comparison),
        ),
        _plot(
            "Output throughput over time",
            "All tokens that the client received in the last round. A long tail at the end shows requests that wait "
            "for one slow replica.",
            throughput_figure(last),
        ),
    ]
    if comparison.plan.replicas:
        usage = _plot(
            "KV cache utilisation of each replica",
            "In the last round. Lines close together show an even load. A line at 100 % shows a replica that queues "
            "and preempts while others have free blocks.",
            kv_usage_figure(last),
        )
        plots.insert(0, usage)
    return plots


def _plot(title: str, caption: str, figure: Figure) -> _Plot:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # pyright: ignore[reportUnknownMemberType]
    return _Plot(title, caption, base64.b64encode(out.getvalue()).decode())
