"""The `gateway-bench` command: prints the picker's figures as a table."""

import argparse
import sys
from collections.abc import AsyncIterator, Callable

import uvloop
from rich.console import Console
from rich.table import Table

from e2e.bench.figures import Figure, all_figures, model_figures

_Figures = Callable[[float, int, Callable[[str], None]], AsyncIterator[Figure]]


def main() -> None:
    """Print the figures. Exits 1 if a request failed or a body did not pass. With --check, exits 1 also if a bound is
    not met. Without it a bound is no error: a machine with other load distorts the figures."""
    parser = argparse.ArgumentParser("gateway-bench", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of load for each measurement (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (default 3)")
    parser.add_argument("--models", action="store_true", help="measure only what routing by model costs")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is not met")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        parser.exit(2, "gateway-bench: reads CPU times from /proc, which only Linux has\n")
    figures = uvloop.run(
        _measure(model_figures if arguments.models else all_figures, arguments.seconds, arguments.rounds)
    )
    Console().print(_table(figures))
    broken = [figure for figure in figures if figure.unit in ("", "of 3") and not figure.met]
    sys.exit(1 if broken or (arguments.check and not all(figure.met for figure in figures)) else 0)


async def _measure(measure: _Figures, seconds: float, rounds: int) -> list[Figure]:
    console = Console(stderr=True)
    with console.status("starting") as status:

        def progress(text: str) -> None:
            if console.is_terminal:
                status.update(text)
            else:
                console.print(text)

        return [figure async for figure in measure(seconds, rounds, progress)]


def _table(figures: list[Figure]) -> Table:
    table = Table("figure", "measured", "bound", "", "detail")
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        table.add_row(
            figure.name,
            f"{figure.value:.2f} {figure.unit}",
            f"{sign} {figure.bound:.2f}" if figure.bound is not None else "",
            ("met" if figure.met else "NOT MET") if figure.bound is not None else "",
            figure.detail,
        )
    return table


if __name__ == "__main__":
    main()
