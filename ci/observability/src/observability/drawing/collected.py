"""What a dashboard shows at a moment: its panels with their series."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from observability.panels import Dashboard, Panel
from observability.prometheus import FEWEST_SCRAPES, Prometheus, Series, Span

POINTS = 240
"""Of a line: about the pixels that it has."""
SHORTEST_WINDOW_S = 10.0
"""Of a rate: Envoy brings its histograms up to date every 5 s."""
_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Line:
    legend: str
    series: Series


@dataclass(frozen=True, slots=True)
class PanelLines:
    panel: Panel
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Collected:
    dashboard: Dashboard
    span: Span
    rows: tuple[tuple[PanelLines, ...], ...]
    """As the dashboard's."""


async def collect(prometheus: Prometheus, dashboard: Dashboard, start_s: float, end_s: float) -> Collected:
    """Ask for every panel's series. Raises NoPrometheus."""
    interval_s = await prometheus.scrape_interval_s()
    span = Span(start_s, end_s, max((end_s - start_s) / POINTS, 1.0))
    window_s = max(FEWEST_SCRAPES * interval_s, span.step_s, SHORTEST_WINDOW_S)
    free = asyncio.Semaphore(_AT_A_TIME)

    async def of_panel(panel: Panel) -> PanelLines:
        lines: list[Line] = []
        for query in panel.queries:
            async with free:
                found = await prometheus.over(query.expression, span, window_s)
            of_query = [Line(legend_of(query.legend, each.labels), each) for each in found]
            # In their order a replica has the same colour in every panel.
            lines += sorted(of_query, key=lambda line: line.legend)
        return PanelLines(panel, tuple(lines))

    async def of_row(panels: Sequence[Panel]) -> tuple[PanelLines, ...]:
        return tuple(await asyncio.gather(*map(of_panel, panels)))

    rows = await asyncio.gather(*(of_row(row.panels) for row in dashboard.rows))
    return Collected(dashboard, span, tuple(rows))


def legend_of(legend: str, labels: Mapping[str, str]) -> str:
    """`{{label}}` filled in; nothing for a label that a series does not have."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()
