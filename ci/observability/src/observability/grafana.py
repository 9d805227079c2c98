"""Converts dashboards to Grafana's JSON."""

from collections.abc import Sequence
from itertools import count

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as boards
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    FieldColorModeId,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from observability.panels import Dashboard, Kind, Panel, Query, Variable

_PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT, _NUMBER_HEIGHT = 8, 4

_ALL = VariableOption(text="All", value="$__all", selected=True)


def grafana_json(dashboard: Dashboard) -> str:
    """The dashboard as JSON, for import by hand or by Grafana's sidecar."""
    builder = (
        boards.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(list(dashboard.tags))
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(boards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in dashboard.variables:
        builder.with_variable(_variable(variable))
    ids = count(1)
    for row in dashboard.rows:
        builder.with_row(boards.Row(row.title).id(next(ids)))
        for panel in row.panels:
            built = _number(panel) if panel.kind is Kind.NUMBER else _graph(panel)
            builder.with_panel(built.id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=1).encode(builder.build()) + "\n"


def _variable(variable: Variable) -> boards.QueryVariable:
    """A variable that selects several values or all. All includes series without the label."""
    builder = (
        boards.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_PROMETHEUS)
        .query(f"label_values({variable.metric}, {variable.of})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(_ALL)
    )
    return builder.regex(f"/^(?!{variable.excluded}).*/") if variable.excluded else builder


def _graph(panel: Panel) -> timeseries.Panel:
    builder = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_PROMETHEUS)
        .unit(panel.unit.grafana)
        .min(0)
        .span(panel.width)
        .height(_HEIGHT)
        .line_width(1)
        .fill_opacity(40 if panel.kind is Kind.STACKED else 8)
        .color_scheme(boards.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .gradient_mode(GraphGradientMode.NONE)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["mean", "max", "lastNotNull"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .targets(_targets(panel.queries))
    )
    if panel.kind is Kind.STACKED:
        builder.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    return builder if panel.high is None else builder.max(panel.high)


def _number(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_PROMETHEUS)
        .unit(panel.unit.grafana)
        .span(panel.width)
        .height(_NUMBER_HEIGHT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .targets(_targets(panel.queries))
    )


def _targets(queries: Sequence[Query]) -> list[Builder[Dataquery]]:
    return [
        prometheus.Dataquery()
        .expr(query.expression)
        .legend_format(query.legend)
        .ref_id(chr(ord("A") + index))
        .datasource(_PROMETHEUS)
        for index, query in enumerate(queries)
    ]
