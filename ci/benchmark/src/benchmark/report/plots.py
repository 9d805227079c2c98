"""Plots of a comparison. Each function makes one figure."""

# matplotlib's keyword arguments have no types.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from benchmark.compare.rounds import Comparison, Run
from benchmark.replicas.spread import kv_usage

_PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#777777", "#000000")
"""Paul Tol's bright scheme: distinct for most colour-blind readers, and in print."""
_HIGH = 0.5
"""If the highest utilisation exceeds this, the scale ends at 100 %, else at the highest value. Judgement."""
_MOST_NAMED_REPLICAS = 12
"""With more lines there is no legend, because it would be unreadable. Judgement."""


_LETTERS_AN_INCH = 12
"""Letters per inch of the legend's font. Judgement."""
_LETTERS_OF_A_LINE = 8
"""Width of a legend's line sample, in letters. Judgement."""


def kv_usage_figure(runs: Sequence[Run]) -> Figure:
    """KV cache utilisation of each replica over time: a pane for each run, side by side on one scale.

    The runs belong to one round and recorded the same replicas."""
    figure = _figure(width=6.2 * len(runs), height=4.4)
    panes = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for run, pane in zip(runs, panes, strict=True):
        _draw_usage(pane, run)
    panes[0].set_ylabel("KV cache utilisation (%)")
    peak = max((float(np.nanmax(kv_usage(run.recording)[1], initial=0.0)) for run in runs), default=0.0)
    panes[0].set_ylim(0, 105 if peak > _HIGH else None)
    panes[0].set_xlim(left=0)
    handles, labels = panes[0].get_legend_handles_labels()
    if 0 < len(labels) <= _MOST_NAMED_REPLICAS:
        fitting = int(figure.get_figwidth() * _LETTERS_AN_INCH) // (max(map(len, labels)) + _LETTERS_OF_A_LINE)
        columns = min(len(labels), max(1, fitting))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    figure.suptitle("KV cache utilisation of each replica, under the same load", fontsize=13)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Writes a PNG file and creates its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def save_kv_usage(comparison: Comparison, path: Path) -> None:
    """Writes the plot of the last round, in which all caches are warm. Raises OSError."""
    save_png(kv_usage_figure(comparison.rounds[-1]), path)


def color(index: int) -> str:
    """The colour of the line at this index of a figure."""
    return _PALETTE[index % len(_PALETTE)]


def _draw_usage(pane: Axes, run: Run) -> None:
    times, usage = kv_usage(run.recording)
    for index, replica in enumerate(run.recording.replicas):
        pane.plot(times - run.result.began_s, 100 * usage[:, index], color=color(index), lw=1.4, label=replica.name)
    spread = run.kv_spread.deviation
    subtitle = "" if np.isnan(spread) else f"\nspread between replicas (std): {100 * spread:.1f} %"
    pane.set_title(f"{run.contender.name}{subtitle}", fontsize=11)
    pane.set_xlabel("time (s)")
    _tidy(pane)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def latency_figure(comparison: Comparison) -> Figure:
    """Cumulative distributions of TTFT and TPOT. Each contender has a bold line for all rounds, and thin lines for each
    round."""
    figure = _figure(width=12.4, height=4.2)
    ttft, tpot = figure.subplots(1, 2, sharey=True)
    for index, contender in enumerate(comparison.plan.contenders):
        runs = comparison.runs_of(index)
        ttfts = [np.array([sample.ttft_s for sample in run.result.completed]) for run in runs]
        tpots = [
            np.array([tpot_s for sample in run.result.completed if (tpot_s := sample.tpot_s) is not None])
            for run in runs
        ]
        _draw_shares(ttft, [1000 * seconds for seconds in ttfts], contender.name, color(index))
        _draw_shares(tpot, [1000 * seconds for seconds in tpots], contender.name, color(index))
    ttft.set_xscale("log")
    ttft.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ttft.set_ylabel("share of requests (%)")
    ttft.set_ylim(0, 100)
    for pane, name in ((ttft, "time to first token (ms)"), (tpot, "time per output token (ms)")):
        pane.set_xlabel(name)
        _tidy(pane)
    tpot.legend(loc="lower right", frameon=False)
    figure.suptitle("Latency under the same load (bold: all rounds; thin: each round)", fontsize=13)
    return figure


def throughput_figure(runs: Sequence[Run]) -> Figure:
    """Output tokens per second over time, a line for each run."""
    figure = _figure(width=12.4, height=3.8)
    pane = figure.subplots()
    longest_s = max(run.result.duration_s for run in runs)
    bin_s = max(longest_s / 80, 1e-3)
    edges = np.arange(0, longest_s + bin_s, bin_s)
    for index, run in enumerate(runs):
        times = [sample.token_times_s + sample.started_s for sample in run.result.completed]
        counts, _ = np.histogram(np.concatenate([*times, np.array([])]), edges)
        pane.stairs(counts / bin_s, edges, color=color(index), lw=1.4, label=run.contender.name)
    pane.set_xlabel("time (s)")
    pane.set_ylabel("output tokens per second")
    pane.set_xlim(left=0)
    pane.set_ylim(bottom=0)
    pane.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _tidy(pane)
    pane.legend(frameon=False)
    return figure


def _draw_shares(pane: Axes, rounds: Sequence[NDArray[np.float64]], name: str, line_color: str) -> None:
    if len(rounds) > 1:
        for values in rounds:
            _draw_share(pane, values, line_color, lw=0.6, alpha=0.5)
    _draw_share(pane, np.concatenate(rounds), line_color, lw=2.0, alpha=1.0, label=name)


def _draw_share(
    pane: Axes, values: NDArray[np.float64], line_color: str, lw: float, alpha: float, label: str | None = None
) -> None:
    if len(values):
        shares = 100 * np.arange(1, len(values) + 1) / len(values)
        pane.step(np.sort(values), shares, where="post", color=line_color, lw=lw, alpha=alpha, label=label)


def _tidy(pane: Axes) -> None:
    pane.grid(alpha=0.25)
    pane.spines[["top", "right"]].set_visible(False)
