"""A dashboard as a picture, laid out on Grafana's grid."""

# matplotlib's keyword arguments have no types.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from observability.drawing.axis import clock, written
from observability.drawing.collected import Collected, Line, PanelLines
from observability.panels import Kind, Panel
from observability.prometheus import Span

_PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777", "#000000")
"""Paul Tol's bright scheme: told apart by most who are colour-blind, and in print."""
_COLUMNS = 24
_WIDTH_IN, _GRAPH_IN, _NUMBER_IN, _TITLE_IN = 18.0, 3.1, 1.1, 0.4
_MOST_IN_LEGEND = 8
_GREY = "#666666"


def save_png(collected: Collected, path: Path) -> None:
    """The whole dashboard. Raises OSError."""
    lines = list(_lines_of_panels(collected))
    heights = [_TITLE_IN if isinstance(each, str) else _height(each) for each in lines]
    figure = Figure(figsize=(_WIDTH_IN, sum(heights) + 0.6), dpi=90, layout="constrained")
    figure.suptitle(collected.dashboard.title, fontsize=16, fontweight="bold", x=0.01, ha="left")
    strips = figure.subfigures(len(lines), 1, height_ratios=heights, squeeze=False)[:, 0]
    for strip, each in zip(strips, lines, strict=True):
        if isinstance(each, str):
            strip.text(0.01, 0.3, each, fontsize=13, fontweight="bold", color=_GREY)
            continue
        grid = strip.add_gridspec(1, _COLUMNS)
        at = 0
        for shown in each:
            _draw(strip.add_subplot(grid[0, at : at + shown.panel.width]), shown, collected.span)
            at += shown.panel.width
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def panel_svg(shown: PanelLines, span: Span) -> bytes:
    """One panel, for a page."""
    number = shown.panel.kind is Kind.NUMBER
    size = (_WIDTH_IN * shown.panel.width / _COLUMNS, _NUMBER_IN if number else _GRAPH_IN)
    figure = Figure(figsize=size, layout="constrained")
    _draw(figure.subplots(), shown, span)
    picture = BytesIO()
    FigureCanvasSVG(figure).print_svg(picture, metadata={"Date": None})
    return picture.getvalue()


def _lines_of_panels(collected: Collected) -> Iterator[str | Sequence[PanelLines]]:
    """Rows' titles, and after each its panels in lines of 24 columns."""
    for row, panels in zip(collected.dashboard.rows, collected.rows, strict=True):
        yield row.title
        line: list[PanelLines] = []
        for shown in panels:
            if sum(each.panel.width for each in line) + shown.panel.width > _COLUMNS:
                yield line
                line = []
            line.append(shown)
        yield line


def _height(line: Sequence[PanelLines]) -> float:
    return _NUMBER_IN if all(each.panel.kind is Kind.NUMBER for each in line) else _GRAPH_IN


def _draw(axes: Axes, shown: PanelLines, span: Span) -> None:
    axes.set_title(shown.panel.title, fontsize=10.5, loc="left")
    if shown.panel.kind is Kind.NUMBER:
        _draw_number(axes, shown)
        return
    if shown.panel.kind is Kind.STACKED:
        _draw_stack(axes, shown.lines)
    else:
        for index, line in enumerate(shown.lines):
            axes.plot(line.series.times_s, line.series.values, color=_color(index), lw=1.3, label=line.legend)
    _finish(axes, shown, span)


def _draw_number(axes: Axes, shown: PanelLines) -> None:
    axes.axis("off")
    newest = [value for line in shown.lines for value in line.series.values[-1:] if not math.isnan(value)]
    text = written(newest[-1], shown.panel.unit) if newest else "no data"
    axes.text(0.0, 0.35, text, fontsize=20 if newest else 12, color=_PALETTE[0] if newest else _GREY, va="center")


def _draw_stack(axes: Axes, lines: Sequence[Line]) -> None:
    times = np.unique(np.concatenate([np.asarray(line.series.times_s) for line in lines] or [np.array([])]))
    below = np.zeros(len(times))
    for index, line in enumerate(lines):
        values = np.zeros(len(times))
        values[np.searchsorted(times, line.series.times_s)] = np.nan_to_num(line.series.values)
        axes.fill_between(times, below, below + values, color=_color(index), alpha=0.55, lw=0, label=line.legend)
        below += values


def _finish(axes: Axes, shown: PanelLines, span: Span) -> None:
    """Scales, ticks and legend."""
    values = [value for line in shown.lines for value in line.series.values if not math.isnan(value)]
    if not values:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=_GREY)
    axes.set_xlim(span.start_s, span.end_s)
    axes.set_ylim(0, _top(shown, max(values, default=0.0)))
    _mark(axes, shown.panel, span)
    if shown.lines:
        _add_legend(axes)


def _top(shown: PanelLines, highest: float) -> float | None:
    """Where the axis ends; None leaves it to the lines."""
    if not highest:
        return 1.0
    return shown.panel.high if shown.panel.high is not None and highest > shown.panel.high / 2 else None


def _mark(axes: Axes, panel: Panel, span: Span) -> None:
    def value_text(value: float, _position: int) -> str:
        return written(value, panel.unit)

    def time_text(at: float, _position: int) -> str:
        return clock(at, span.end_s - span.start_s)

    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(value_text))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(time_text))
    axes.tick_params(labelsize=8, colors=_GREY)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _add_legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _MOST_IN_LEGEND:
        labels[_MOST_IN_LEGEND - 1] += f", and {len(labels) - _MOST_IN_LEGEND} more"
    axes.legend(
        handles[:_MOST_IN_LEGEND],
        labels[:_MOST_IN_LEGEND],
        fontsize=7.5,
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=2 if max(map(len, labels)) > 16 else 4,
    )


def _color(index: int) -> str:
    return _PALETTE[index % len(_PALETTE)]
