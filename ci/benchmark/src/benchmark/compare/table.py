"""Formats a comparison for a terminal."""

import math
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from benchmark.compare.rounds import Comparison
from benchmark.compare.verdict import Conclusion, Figure, Ratio, judge

_STYLES = {Conclusion.BETTER: "green", Conclusion.WORSE: "red"}


def comparison_table(comparison: Comparison) -> Table:
    """A table with a row for each figure and a column for each contender. Contenders after the first also get their
    ratio to the first."""
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
        cells: list[str | Text] = [figure_name(row.figure), format_value(row.means[0], row.figure)]
        for mean, ratio in zip(row.means[1:], row.ratios, strict=True):
            cells += [format_value(mean, row.figure), *ratio_cells(ratio)]
            cells.append(Text(ratio.conclusion, style=_STYLES.get(ratio.conclusion, "dim")))
        table.add_row(*cells)
    return table


def format_value(value: float, figure: Figure) -> str:
    """A figure's value without its unit; `-` for NaN."""
    if math.isnan(value):
        return "-"
    # Noise leaves about three significant digits.
    decimals = 0 if (figure.whole and value.is_integer()) or value >= 1000 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def ratio_cells(ratio: Ratio) -> tuple[str, str]:
    """The mean and the interval, as text; `-` for NaN."""
    return (
        "-" if math.isnan(ratio.mean) else f"{ratio.mean:.3f}",
        "-" if math.isnan(ratio.low) else f"{ratio.low:.3f}-{ratio.high:.3f}",
    )


def conclusions(comparison: Comparison) -> Iterator[str]:
    """The conclusions, a sentence each."""
    failed = [
        f"{count} of {contender.name}"
        for index, contender in enumerate(comparison.plan.contenders)
        if (count := comparison.failed_of(index))
    ]
    if failed:
        yield f"Requests failed: {', '.join(failed)}; all figures are of the successful ones."
    first, *others = comparison.plan.contenders
    rows = judge(comparison)
    for index, contender in enumerate(others):
        by_conclusion = {
            conclusion: [row.figure.name for row in rows if row.ratios[index].conclusion is conclusion]
            for conclusion in Conclusion
        }
        for conclusion in (Conclusion.BETTER, Conclusion.WORSE):
            if names := by_conclusion[conclusion]:
                yield f"{contender.name} is {conclusion} than {first.name} in: {', '.join(names)}."
        if names := by_conclusion[Conclusion.WITHIN_NOISE]:
            yield f"No conclusion, the noise between rounds is larger than the difference: {', '.join(names)}."
        if by_conclusion[Conclusion.TOO_FEW_ROUNDS]:
            yield "No conclusion from one round; --rounds 4 or more shows the noise."


def figure_name(figure: Figure) -> str:
    """The name with its unit."""
    return f"{figure.name} ({figure.unit})" if figure.unit else figure.name


def _each_round(comparison: Comparison) -> str:
    return f"{comparison.rounds[0][0].summary.completed + comparison.rounds[0][0].summary.failed} requests each"
