"""Writes results as the Markdown tables of `docs/results.md`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from simulator.experiment.measures import estimate, values_of
from simulator.experiment.report import AGAINST, COMPARED, ratio
from simulator.experiment.runner import Results

SHOWN = (("ttft_p90_s", "TTFT p90, s"), ("goodput_per_s", "answers per second within the SLO"))


def write_markdown(results: Results, ours: Sequence[str], path: Path) -> None:
    """Writes the means of the main measures, and the ratios of our strategies to the others with verdicts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_lines(results, ours)) + "\n")


def _lines(results: Results, ours: Sequence[str]) -> Iterator[str]:
    names = list(next(iter(results.values())))
    seeds = len(next(iter(results.values()))[names[0]])
    for measure, title in SHOWN:
        yield from (f"{title}, mean of {seeds} seeds:", "")
        yield from _head(names)
        for scenario, rows in results.items():
            means = [estimate(values_of(rows[name], measure)).mean for name in names]
            yield _row(scenario, [f"{mean:.0f}" if mean >= 10 else f"{mean:.2f}" for mean in means])
        yield ""
    others = [name for name in AGAINST if name in names]
    for name in [own for own in ours if own in names]:
        yield from (f"{name} as ratios; + better, - worse beyond the 95 % interval:", "")
        yield from _head([f"{title} / {other}" for other in others for _, title in COMPARED])
        for scenario, rows in results.items():
            cells = [ratio(measure, rows[name], rows[other]) for other in others for measure, _ in COMPARED]
            yield _row(scenario, cells)
        yield ""


def _head(titles: Sequence[str]) -> Iterator[str]:
    yield _row("scenario", titles)
    yield "|---|" + "---:|" * len(titles)


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"
