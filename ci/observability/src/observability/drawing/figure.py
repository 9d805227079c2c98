"""Draws a dashboard with matplotlib, on Grafana's grid."""

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

from observability.drawing.axis import UNITS_AT_TICKS, clock, format_tick, format_value
from observability.drawing.collected import Collected, Line, PanelLines
from observability.panels import Kind, Panel
from observability.prometheus import Span

_PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777", "#000000")
"""Paul Tol's bright scheme: distinct for most colour-blind readers, and in print."""
_COLUMNS = 24
_MOST_IN_LEGEND = 8
_MOST_COLUMNS, _MOST_LEGEND_LINES = 4, 4
_CHARACTER = 0.073
"""Average width of a legend's character in inches."""
_HANDLE = 6
"""Width of the line sample before a legend's name, in characters."""
_GREY = "#666666"

# Inches. Panels are placed explicitly: matplotlib's own layout takes a minute for this many.
_WIDTH, _HEAD, _ROW_TITLE, _GRAPH, _NUMBER = 18.0, 0.6, 0.45, 3.4, 1.0
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.75, 0.3, 0.35, 1.15
"""Margins of a graph, for its title, ticks and legend."""


def save_png(collected: Collected, path: Path) -> None:
    """Writes the whole dashboard as PNG and creates its folder. Raises OSError."""
    lines = list(_lines_of_panels(collected))
    height = _HEAD + sum(_ROW_TITLE if isinstance(line, str) else _height(line) for line in lines)
    figure = Figure(figsize=(_WIDTH, height), dpi=80)
    figure.text(0.1 / _WIDTH, 1 - 0.35 / height, collected.dashboard.title, fontsize=17, fontweight="bold")
    top = height - _HEAD
    for line in lines:
        if isinstance(line, str):
            figure.text(0.1 / _WIDTH, (top - 0.3) / height, line, fontsize=13, fontweight="bold", color=_GREY)
            top -= _ROW_TITLE
            continue
        left = 0.0
        for shown in line:
            _draw(_placed(figure, shown.panel, left, top), shown, collected.span)
            left += _width(shown.panel)
        top -= _height(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def panel_svg(shown: PanelLines, span: Span) -> bytes:
    """One panel as SVG."""
    height = _height([shown])
    figure = Figure(figsize=(_width(shown.panel), height))
    _draw(_placed(figure, shown.panel, 0.0, height), shown, span)
    out = BytesIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    return out.getvalue()


def _lines_of_panels(collected: Collected) -> Iterator[str | Sequence[PanelLines]]:
    """The title of each row, followed by its panels in lines of 24 columns."""
    for row, panels in zip(collected.dashboard.rows, collected.rows, strict=True):
        yield row.title
        line: list[PanelLines] = []
        for shown in panels:
            if sum(placed.panel.width for placed in line) + shown.panel.width > _COLUMNS:
                yield line
                line = []
            line.append(shown)
        yield line


def _height(line: Sequence[PanelLines]) -> float:
    return _NUMBER if all(shown.panel.kind is Kind.NUMBER for shown in line) else _GRAPH


def _width(panel: Panel) -> float:
    return _WIDTH * panel.width / _COLUMNS


def _placed(figure: Figure, panel: Panel, left: float, top: float) -> Axes:
    """Adds the axes of a panel. `left` and `top` are its upper left corner, in inches from the left and the bottom."""
    width, height = figure.get_size_inches()
    if panel.kind is Kind.NUMBER:
        inside = (left + 0.15, top - _NUMBER, _width(panel) - 0.3, _NUMBER - _ABOVE)
    else:
        inside = (left + _LEFT, top - _GRAPH + _BELOW, _width(panel) - _LEFT - _RIGHT, _GRAPH - _ABOVE - _BELOW)
    x, y, across, up = inside
    return figure.add_axes((x / width, y / height, across / width, up / height))


def _draw(axes: Axes, shown: PanelLines, span: Span) -> None:
    axes.set_title(shown.panel.title, fontsize=11, loc="left")
    if shown.panel.kind is Kind.NUMBER:
        _draw_number(axes, shown)
        return
    if shown.panel.unit not in UNITS_AT_TICKS:
        axes.set_title(shown.panel.unit.axis, fontsize=9, loc="right", color=_GREY)
    if shown.panel.kind is Kind.STACKED:
        _draw_stack(axes, shown.lines)
    else:
        for index, line in enumerate(shown.lines):
            axes.plot(line.series.times_s, line.series.values, color=_color(index), lw=1.3, label=line.legend)
    _finish(axes, shown, span)


def _draw_number(axes: Axes, shown: PanelLines) -> None:
    axes.axis("off")
    newest = [value for line in shown.lines for value in line.series.values[-1:] if not math.isnan(value)]
    text = format_value(newest[-1], shown.panel.unit) if newest else "no data"
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
    """Sets scales, ticks and legend."""
    values = [value for line in shown.lines for value in line.series.values if not math.isnan(value)]
    if not values:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=_GREY)
    axes.set_xlim(span.start_s, span.end_s)
    axes.set_ylim(0, _top(shown, max(values, default=0.0)))
    _mark(axes, shown.panel, span)
    if shown.lines:
        _add_legend(axes, shown.panel)


def _top(shown: PanelLines, highest: float) -> float | None:
    """The upper end of the axis; None lets matplotlib choose it."""
    if not highest:
        return 1.0
    return shown.panel.high if shown.panel.high is not None and highest > shown.panel.high / 2 else None


def _mark(axes: Axes, panel: Panel, span: Span) -> None:
    def value_text(value: float, _position: int) -> str:
        return format_tick(value, panel.unit)

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


def _add_legend(axes: Axes, panel: Panel) -> None:
    """Adds the legend, in as many columns of the longest name as fit."""
    handles, labels = axes.get_legend_handles_labels()
    columns = int(_width(panel) / _CHARACTER) // (max(map(len, labels)) + _HANDLE)
    columns = max(1, min(_MOST_COLUMNS, columns))
    most = min(_MOST_IN_LEGEND, columns * _MOST_LEGEND_LINES)
    if len(labels) > most:
        labels[most - 1] += f", and {len(labels) - most} more"
    axes.legend(
        handles[:most],
        labels[:most],
        fontsize=8.5,
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=columns,
    )


def _color(index: int) -> str:
    return _PALETTE[index % len(_PALETTE)]
