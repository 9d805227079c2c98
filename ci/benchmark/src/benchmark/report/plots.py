"""Plots of a comparison: each function makes one figure."""

# matplotlib's keyword arguments have no types.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.compare.rounds import Comparison, Leg
from benchmark.replicas.spread import kv_usage

_PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777", "#000000")
"""Paul Tol's bright scheme: told apart by most who are colour-blind, and in print."""
_MOST_NAMED_REPLICAS = 12
"""More lines than this have no legend: nobody could read it."""


def kv_usage_figure(legs: Sequence[Leg]) -> Figure:
    """KV cache utilisation of each replica over time, a pane for each leg, side by side on one scale. The legs are of
    one round and have looked at the same replicas."""
    figure = _figure(width=6.2 * len(legs), height=4.4)
    panes = figure.subplots(1, len(legs), sharex=True, sharey=True, squeeze=False)[0]
    for leg, pane in zip(legs, panes, strict=True):
        _draw_usage(pane, leg)
    panes[0].set_ylabel("KV cache utilisation (%)")
    panes[0].set_ylim(0, 105)
    panes[0].set_xlim(left=0)
    handles, labels = panes[0].get_legend_handles_labels()
    if 0 < len(labels) <= _MOST_NAMED_REPLICAS:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    figure.suptitle("KV cache utilisation of each replica, under the same load", fontsize=13)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a picture, its folder too. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def save_kv_usage(comparison: Comparison, path: Path) -> None:
    """The picture of the last round: by then everything is warm."""
    save_png(kv_usage_figure(comparison.rounds[-1]), path)


def color(index: int) -> str:
    """Of the index-th line of a figure."""
    return _PALETTE[index % len(_PALETTE)]


def _draw_usage(pane: Axes, leg: Leg) -> None:
    times, usage = kv_usage(leg.watched)
    for index, replica in enumerate(leg.watched.replicas):
        pane.plot(times - leg.result.began_s, 100 * usage[:, index], color=color(index), lw=1.4, label=replica.name)
    spread = leg.kv_spread.deviation
    told = "" if np.isnan(spread) else f"\nspread between replicas (std): {100 * spread:.1f} %"
    pane.set_title(f"{leg.contender.name}{told}", fontsize=11)
    pane.set_xlabel("time (s)")
    pane.grid(alpha=0.25)
    pane.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=120, layout="constrained")
