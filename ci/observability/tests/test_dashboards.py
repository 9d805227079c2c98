"""Properties of the dashboards that need no Prometheus."""

import json
import re
from collections import Counter

import pytest
from observability.dashboards import DASHBOARDS, VLLM_SERVICE
from observability.grafana import grafana_json
from observability.metric_names import metrics_in
from observability.panels import Dashboard, Kind, Panel, Query
from vllm_mock.metrics.families import Buckets
from vllm_mock.metrics.profiles import PROFILES

PANELS = [panel for dashboard in DASHBOARDS for panel in dashboard.panels()]
QUERIES = [query for panel in PANELS for query in panel.queries]

TUTORIALS_METRICS = {
    "vllm:gpu_cache_usage_perc",
    "vllm:request_queue_time_seconds_sum",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_swapped",
    "vllm:avg_generation_throughput_toks_per_s",
    "vllm:avg_prompt_throughput_toks_per_s",
    "vllm:time_to_first_token_seconds_bucket",
}


def exposed(profile: str) -> set[str]:
    """Names of the metrics that the mock exposes with a profile."""
    names = {"vllm:lora_requests_info", "vllm:cache_config_info"}
    for family in PROFILES[profile].families:
        if isinstance(family, Buckets):
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        elif name := getattr(family, "name", None):
            names.add(name)
    return names


EXPOSED = {profile: exposed(profile) for profile in PROFILES}


def test_the_vllm_dashboard_shows_every_metric_of_the_tutorial() -> None:
    shown = {
        name for panel in VLLM_SERVICE.panels() for query in panel.queries for name in metrics_in(query.expression)
    }
    assert shown >= TUTORIALS_METRICS


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.expression[:60])
def test_every_vllm_metric_is_exposed_by_some_version(query: Query) -> None:
    """A misspelled name would give an empty panel."""
    for name in metrics_in(query.expression):
        if name.startswith("vllm:"):
            assert any(name in page for page in EXPOSED.values())


SOME_VERSIONS_ONLY = {
    "Throughput as vLLM averages it",
    "Swapped",
    "CPU KV cache utilisation",
    "Rejected",
    "Waiting by reason",
}
"""Panels of metrics that only some versions have. Their descriptions name the versions."""


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("panel", list(VLLM_SERVICE.panels()), ids=lambda panel: panel.title)
def test_every_panel_has_data_from_every_version(panel: Panel, profile: str) -> None:
    """At least one query of the panel reads only metrics that the version exposes, by one of their names."""
    if panel.title in SOME_VERSIONS_ONLY:
        assert re.search(r"vLLM|old engine", panel.description)
        return
    assert any(
        all(
            name in EXPOSED[profile] or _has_alternative(name, metrics_in(query.expression), EXPOSED[profile])
            for name in metrics_in(query.expression)
        )
        for query in panel.queries
    )


def _has_alternative(name: str, read: set[str], page: set[str]) -> bool:
    """Whether a query that reads another version's name also reads a name of this page for the same metric."""
    part = re.compile(r"^vllm:(gpu_)?(kv_)?|inter_token_latency|time_per_output_token")
    same = part.sub("", name)
    return any(other != name and part.sub("", other) == same and other in page for other in read)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_titles_within_a_dashboard_differ(dashboard: Dashboard) -> None:
    counts = Counter(panel.title for panel in dashboard.panels())
    assert [title for title, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_rows_fill_the_width(dashboard: Dashboard) -> None:
    """Every line of panels is 24 columns wide."""
    for row in dashboard.rows:
        column = 0
        for panel in row.panels:
            column += panel.width
            assert column <= 24, (row.title, panel.title)
            column %= 24
        assert column == 0, row.title


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_legend_names_labels_that_the_query_keeps(panel: Panel) -> None:
    """Otherwise the legend is empty. Queries of one panel have different legends."""
    for query in panel.queries:
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            assert re.search(rf"by \([^)]*\b{label}\b", query.expression), query
    legends = [query.legend for query in panel.queries]
    assert all(legends)
    assert panel.title == "Prefix cache hits" or len(set(legends)) == len(legends)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_the_json_has_every_panel_and_only_defined_variables(dashboard: Dashboard) -> None:
    made = json.loads(grafana_json(dashboard))
    titles = [panel["title"] for panel in made["panels"] if panel["type"] != "row"]
    assert titles == [panel.title for panel in dashboard.panels()]
    ids = [panel["id"] for panel in made["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in made["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(made["panels"])))
    assert used - {"__rate_interval"} <= variables
    kinds = {panel["title"]: panel["type"] for panel in made["panels"]}
    for panel in dashboard.panels():
        assert kinds[panel.title] == ("stat" if panel.kind is Kind.NUMBER else "timeseries")
