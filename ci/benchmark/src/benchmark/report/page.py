"""The comparison as one HTML page that needs nothing beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmark.compare.aims import Judged
from benchmark.compare.history import beside, judged_by
from benchmark.compare.record import Record
from benchmark.compare.rounds import Comparison
from benchmark.compare.table import conclusions, figure_name, ratio_cells, told
from benchmark.compare.verdict import FIGURES_BY_NAME, judge
from benchmark.report.plots import kv_usage_figure, latency_figure, throughput_figure

_ENVIRONMENT = Environment(
    loader=PackageLoader("benchmark", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    conclusion: str = ""
    """Of the class that colours it."""


@dataclass(frozen=True, slots=True)
class _Picture:
    title: str
    says: str
    """What to look for."""
    data: str
    """SVG, base64."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A comparison with all that the page tells of it."""

    comparison: Comparison
    record: Record
    settings: Sequence[tuple[str, str]]
    """Told as they are."""
    past: Sequence[Record] | None = None
    """The runs that it was judged by; None without a history."""
    aims: Sequence[Judged] = ()
    title: str | None = None
    """Without one it is named by its contenders."""
    about: str = ""
    """What is compared, and what for; a paragraph."""


def save_report(path: Path, chapters: Sequence[Chapter], title: str | None = None) -> None:
    """Write the page, its folder too. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_html(chapters, title), encoding="utf-8")


def report_html(chapters: Sequence[Chapter], title: str | None = None) -> str:
    """The page; for each chapter what may be concluded, the figures, the pictures, each round, the settings. `title`:
    without one that of the first chapter."""
    told = [_told(chapter) for chapter in chapters]
    return _ENVIRONMENT.get_template("page.html.j2").render(title=title or told[0]["title"], chapters=told)


def _told(chapter: Chapter) -> Mapping[str, object]:
    """What the template asks of a chapter."""
    comparison = chapter.comparison
    contenders = " and ".join(contender.name for contender in comparison.plan.contenders)
    return {
        "title": chapter.title or f"{contenders} under the same load",
        "about": chapter.about,
        "record": chapter.record,
        "conclusions": list(conclusions(comparison)),
        "aims": chapter.aims,
        "judged": judged_by(chapter.past) if chapter.past is not None else "",
        "beside": _beside(chapter.record, chapter.past or ()),
        "header": _header(comparison),
        "rows": _rows(comparison),
        "pictures": _pictures(comparison),
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
        cells = [_Cell(figure_name(row.figure)), _Cell(told(row.means[0], row.figure))]
        for mean, ratio in zip(row.means[1:], row.ratios, strict=True):
            ratio_text, interval = ratio_cells(ratio)
            cells += [_Cell(told(mean, row.figure)), _Cell(ratio_text), _Cell(interval)]
            cells.append(_Cell(ratio.conclusion, ratio.conclusion.name.lower().replace("_", "-")))
        rows.append(cells)
    return rows


def _each_round(comparison: Comparison) -> list[list[str]]:
    """A line for each figure and contender: its value in every round."""
    return [
        [
            figure_name(row.figure),
            contender.name,
            *(told(row.figure.of(leg), row.figure) for leg in comparison.legs_of(index)),
        ]
        for row in judge(comparison)
        for index, contender in enumerate(comparison.plan.contenders)
    ]


def _beside(record: Record, past: Sequence[Record]) -> list[list[_Cell]]:
    """A line for each figure and contender: what it is, was in the runs before, and usually is."""
    lines: list[list[_Cell]] = []
    for each in beside(record, past):
        figure = FIGURES_BY_NAME.get(each.figure.name)
        if figure is None:
            continue
        usual = "-" if each.usual is None else " - ".join(told(bound, figure) for bound in each.usual)
        ratio = f"{each.figure.mean / each.mean:.3f}" if each.mean > 0 else "-"
        lines.append(
            [
                _Cell(figure_name(figure)),
                _Cell(each.contender, "text"),
                _Cell(told(each.figure.mean, figure), "worse" if each.worse else ""),
                _Cell(told(each.mean, figure)),
                _Cell(ratio),
                _Cell(usual),
            ]
        )
    return lines


def _pictures(comparison: Comparison) -> list[_Picture]:
    last = comparison.rounds[-1]
    pictures = [
        _picture(
            "Time to first token and time per output token",
            "The share of requests that were at most so slow; further left is faster. A bold line is all rounds "
            "together, a thin one each round: where the thin ones of two targets cross, the difference is noise.",
            latency_figure(comparison),
        ),
        _picture(
            "Output throughput over time",
            "All tokens that the client received, in the last round. A long tail at the end is requests that wait for "
            "one slow replica.",
            throughput_figure(last),
        ),
    ]
    if comparison.plan.replicas:
        usage = _picture(
            "KV cache utilisation of each replica",
            "In the last round. Lines side by side are even load; a line at 100 % is a replica that queues and "
            "preempts while others have room.",
            kv_usage_figure(last),
        )
        pictures.insert(0, usage)
    return pictures


def _picture(title: str, says: str, figure: Figure) -> _Picture:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # pyright: ignore[reportUnknownMemberType]
    return _Picture(title, says, base64.b64encode(out.getvalue()).decode())
