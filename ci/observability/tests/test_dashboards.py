"""What a dashboard has to be to be read, before any Prometheus is asked."""

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
    """Names on the mock's page."""
    names = {"vllm:lora_requests_info", "vllm:cache_config_info"}
    for family in PROFILES[profile].families:
        if isinstance(family, Buckets):
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        elif name := getattr(family, "name", None):
            names.add(name)
    return names


EXPOSED = {profile: exposed(profile) for profile in PROFILES}


def test_the_vllm_dashboard_shows_all_that_the_tutorial_lists() -> None:
    shown = {
        name for panel in VLLM_SERVICE.panels() for query in panel.queries for name in metrics_in(query.expression)
    }
    assert shown >= TUTORIALS_METRICS


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.expression[:60])
def test_every_metric_of_vllm_is_on_the_page_of_some_generation(query: Query) -> None:
    """A name with a typing error would be an empty panel for ever."""
    for name in metrics_in(query.expression):
        if name.startswith("vllm:"):
            assert any(name in page for page in EXPOSED.values())


SOME_GENERATIONS_ONLY = {
    "Throughput as vLLM averages it",
    "Swapped",
    "CPU KV cache utilisation",
    "Turned away",
    "Waiting, and why",
}
"""Panels of what a generation has alone; their descriptions say which."""


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("panel", list(VLLM_SERVICE.panels()), ids=lambda panel: panel.title)
def test_every_panel_has_data_from_every_generation(panel: Panel, profile: str) -> None:
    """Some query of it reads nothing but what that generation exposes, by one of the metric's names."""
    if panel.title in SOME_GENERATIONS_ONLY:
        assert re.search(r"vLLM|old engine", panel.description)
        return
    assert any(
        all(
            name in EXPOSED[profile] or _has_sibling(name, metrics_in(query.expression), EXPOSED[profile])
            for name in metrics_in(query.expression)
        )
        for query in panel.queries
    )


def _has_sibling(name: str, read: set[str], page: set[str]) -> bool:
    """Whether a query that reads a name of another generation reads one of this page, too."""
    part = re.compile(r"^vllm:(gpu_)?(kv_)?|inter_token_latency|time_per_output_token")
    same = part.sub("", name)
    return any(other != name and part.sub("", other) == same and other in page for other in read)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_titles_within_a_dashboard_differ(dashboard: Dashboard) -> None:
    counts = Counter(panel.title for panel in dashboard.panels())
    assert [title for title, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_rows_fill_the_width(dashboard: Dashboard) -> None:
    """No holes: every line of panels is 24 columns wide."""
    for row in dashboard.rows:
        at = 0
        for panel in row.panels:
            at += panel.width
            assert at <= 24, (row.title, panel.title)
            at %= 24
        assert at == 0, row.title


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_legend_names_labels_that_the_query_keeps(panel: Panel) -> None:
    """Else the legend is empty. A panel of several queries tells them apart."""
    for query in panel.queries:
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            assert re.search(rf"by \([^)]*\b{label}\b", query.expression), query
    legends = [query.legend for query in panel.queries]
    assert all(legends)
    assert panel.title == "Prefix cache hits" or len(set(legends)) == len(legends)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_the_json_has_every_panel_and_no_variable_that_is_not_defined(dashboard: Dashboard) -> None:
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
