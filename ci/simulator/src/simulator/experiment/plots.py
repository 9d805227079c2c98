"""Plots of the results, one for each scenario."""

# pyright: reportUnknownMemberType=false
# matplotlib's keyword arguments have only partial types.

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from simulator.experiment.measures import Measures, estimate, values_of
from simulator.experiment.runner import Results

PANELS = (
    ("ttft_p90_s", "TTFT p90, s"),
    ("tpot_p90_s", "TPOT p90, s"),
    ("goodput_per_s", "requests within the SLO, 1/s"),
    ("tokens_per_s", "tokens/s"),
)


def plot_all(results: Results, ours: Sequence[str], folder: Path) -> list[Path]:
    """Writes a PNG for each scenario to `folder`, and returns the files. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_plot(scenario, rows, ours, folder) for scenario, rows in results.items()]


def _plot(scenario: str, rows: Mapping[str, Sequence[Measures]], ours: Sequence[str], folder: Path) -> Path:
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 0.35 * len(rows) + 1.4), sharey=True)
    names = list(rows)
    for axis, (measure, title) in zip(axes, PANELS, strict=True):
        estimates = [estimate(values_of(rows[name], measure)) for name in names]
        axis.barh(
            range(len(names)),
            [found.mean for found in estimates],
            xerr=[found.half_width for found in estimates],
            color=["tab:blue" if name in ours else "lightgray" for name in names],
            ecolor="dimgray",
            capsize=2,
        )
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.suptitle(
        f"{scenario}: mean and 95 % interval over {len(rows[names[0]])} seeds", fontsize=11, x=0.01, ha="left"
    )
    figure.tight_layout()
    path = folder / f"{scenario}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
