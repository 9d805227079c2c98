"""The `gateway-dashboards` command."""

import asyncio
import sys
import time
from collections.abc import Sequence

from observability.dashboards import DASHBOARDS
from observability.drawing.collected import Collected, collect
from observability.files import write
from observability.metric_names import metrics_of
from observability.prometheus import Prometheus, PrometheusError
from observability.rules import GROUPS
from observability.settings import Draw, Generate, Metrics, read_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. Exits 2 on wrong usage; prints the error and exits 1 if the command fails."""
    settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    try:
        match settings:
            case Generate(folder):
                for path in write(folder):
                    print(f"Wrote {path}")
            case Metrics():
                print("\n".join(metrics_of(DASHBOARDS, GROUPS)))
            case Draw():
                _draw(settings)
    except (PrometheusError, OSError) as error:
        print(f"gateway-dashboards: {error}", file=sys.stderr)
        sys.exit(1)


def _draw(settings: Draw) -> None:
    # Imported here: matplotlib takes a second to load.
    from observability.drawing.figure import save_png
    from observability.drawing.page import save_html

    for collected in asyncio.run(_collect(settings)):
        stem = settings.out / collected.dashboard.uid
        save_png(collected, stem.with_suffix(".png"))
        save_html(collected, stem.with_suffix(".html"))
        panels = [panel for row in collected.rows for panel in row]
        empty = [drawn.panel.title for drawn in panels if not drawn.lines]
        print(f"Drew {len(panels) - len(empty)} panels of {len(panels)}: {stem}.png, {stem}.html")
        if empty:
            print(f"  No data for: {', '.join(empty)}")


async def _collect(settings: Draw) -> list[Collected]:
    now_s = time.time()
    chosen = [dashboard for dashboard in DASHBOARDS if dashboard.uid in settings.dashboards]
    async with Prometheus(settings.prometheus) as prometheus:
        return [await collect(prometheus, dashboard, now_s - settings.last_s, now_s) for dashboard in chosen]
