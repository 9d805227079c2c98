"""The comparison for a terminal."""

import math
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from benchmark.compare.rounds import Comparison
from benchmark.compare.verdict import Conclusion, Figure, Ratio, judge

_STYLES = {Conclusion.BETTER: "green", Conclusion.WORSE: "red"}


def comparison_table(comparison: Comparison) -> Table:
    """Figures down, contenders across, and for each contender after the first its ratio to the first."""
    first, *others = comparison.plan.contenders
    table = Table(
        title=f"Means over {len(comparison.rounds)} rounds of {_each_round(comparison)}", title_justify="left"
    )
    table.add_column("")
    table.add_column(first.name, justify="right")
    for contender in others:
        table.add_column(contender.name, justify="right")
        table.add_column(f"{contender.name} / {first.name}", justify="right")
        table.add_column("95 % interval", justify="right")
        table.add_column("")
    for row in judge(comparison):
        cells: list[str | Text] = [figure_name(row.figure), told(row.means[0], row.figure)]
        for mean, ratio in zip(row.means[1:], row.ratios, strict=True):
            cells += [told(mean, row.figure), *ratio_cells(ratio)]
            cells.append(Text(ratio.conclusion, style=_STYLES.get(ratio.conclusion, "dim")))
        table.add_row(*cells)
    return table


def told(value: float, figure: Figure) -> str:
    """A figure's value, without its unit; a dash for none."""
    if math.isnan(value):
        return "-"
    # Three digits are what the noise leaves.
    decimals = 0 if (figure.whole and value.is_integer()) or value >= 1000 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def ratio_cells(ratio: Ratio) -> tuple[str, str]:
    """The mean and the interval."""
    return (
        "-" if math.isnan(ratio.mean) else f"{ratio.mean:.3f}",
        "-" if math.isnan(ratio.low) else f"{ratio.low:.3f}-{ratio.high:.3f}",
    )


def conclusions(comparison: Comparison) -> Iterator[str]:
    """What may be concluded, a sentence each."""
    failed = [
        f"{count} of {contender.name}"
        for index, contender in enumerate(comparison.plan.contenders)
        if (count := comparison.failed_of(index))
    ]
    if failed:
        yield f"Requests failed: {', '.join(failed)}; all figures are of those that did not."
    first, *others = comparison.plan.contenders
    rows = judge(comparison)
    for index, contender in enumerate(others):
        by_conclusion = {
            wanted: [row.figure.name for row in rows if row.ratios[index].conclusion is wanted] for wanted in Conclusion
        }
        for wanted in (Conclusion.BETTER, Conclusion.WORSE):
            if names := by_conclusion[wanted]:
                yield f"{contender.name} is {wanted} than {first.name} in: {', '.join(names)}."
        if names := by_conclusion[Conclusion.WITHIN_NOISE]:
            yield f"No conclusion, the noise between rounds is larger than the difference: {', '.join(names)}."
        if by_conclusion[Conclusion.TOO_FEW_ROUNDS]:
            yield "No conclusion from one round; --rounds 4 or more shows what is noise."


def figure_name(figure: Figure) -> str:
    """With its unit."""
    return f"{figure.name} ({figure.unit})" if figure.unit else figure.name


def _each_round(comparison: Comparison) -> str:
    return f"{comparison.rounds[0][0].summary.completed + comparison.rounds[0][0].summary.failed} requests each"
