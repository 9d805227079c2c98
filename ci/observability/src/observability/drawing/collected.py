"""Collects the series of a dashboard's panels over a time span."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from observability.panels import Dashboard, Panel
from observability.prometheus import MIN_SCRAPES, Prometheus, Series, Span

POINTS = 240
"""Points of a line, about as many as its pixels."""
SHORTEST_WINDOW_S = 10.0
"""Shortest window of a rate. Envoy updates its histograms every 5 s."""
_MAX_CONCURRENT_QUERIES = 8
"""Judgement: below the 20 concurrent queries that Prometheus allows by default."""


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
    """Panels in the rows of the dashboard."""


async def collect(prometheus: Prometheus, dashboard: Dashboard, start_s: float, end_s: float) -> Collected:
    """Queries the series of every panel. Raises PrometheusError."""
    interval_s = await prometheus.scrape_interval_s()
    span = Span(start_s, end_s, max((end_s - start_s) / POINTS, 1.0))
    window_s = max(MIN_SCRAPES * interval_s, span.step_s, SHORTEST_WINDOW_S)
    slots = asyncio.Semaphore(_MAX_CONCURRENT_QUERIES)

    async def of_panel(panel: Panel) -> PanelLines:
        lines: list[Line] = []
        for query in panel.queries:
            async with slots:
                found = await prometheus.over(query.expression, span, window_s)
            of_query = [Line(legend_of(query.legend, series.labels), series) for series in found]
            # Sorted, so that a replica has the same colour in every panel.
            lines += sorted(of_query, key=lambda line: line.legend)
        return PanelLines(panel, tuple(lines))

    async def of_row(panels: Sequence[Panel]) -> tuple[PanelLines, ...]:
        return tuple(await asyncio.gather(*map(of_panel, panels)))

    rows = await asyncio.gather(*(of_row(row.panels) for row in dashboard.rows))
    return Collected(dashboard, span, tuple(rows))


def legend_of(legend: str, labels: Mapping[str, str]) -> str:
    """Replaces each `{{label}}` by the label's value; by nothing if the series lacks the label."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()
