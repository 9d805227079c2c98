"""Dashboards, rules and monitors that the chart renders."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_chart import CHART, Objects, helm, pytestmark, rendered

__all__ = ["pytestmark"]  # Skips these tests, too, if the chart cannot be rendered.

OPERATOR = [
    flag for kind in ("PrometheusRule", "PodMonitor") for flag in ("--api-versions", f"monitoring.coreos.com/v1/{kind}")
]
SINK = ("--values", str(CHART / "ci" / "kitchen-sink-values.yaml"))


def of_kind(objects: Objects, kind: str) -> dict[str, dict[str, Any]]:
    return {name: manifest for (its_kind, name), manifest in objects.items() if its_kind == kind}


def test_every_dashboard_is_a_config_map_for_grafanas_sidecar() -> None:
    found: dict[str, Any] = {}
    for config_map in of_kind(rendered(), "ConfigMap").values():
        if config_map["metadata"]["labels"].get("grafana_dashboard") == "1":
            found.update(config_map["data"])
    files = sorted((CHART / "files" / "dashboards").glob("*.json"))
    assert {name: json.loads(text) for name, text in found.items()} == {
        path.name: json.loads(path.read_text()) for path in files
    }


def test_each_dashboard_has_its_own_name_in_a_release_with_a_long_name() -> None:
    """Helm's limit on the name of a release is 53 characters."""
    text = helm("template", "r" * 53, str(CHART), "--show-only", "templates/observability/dashboards.yaml")
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(text) if document]
    assert len(names) == len(set(names)) == 2


def test_without_prometheus_operator_none_of_its_kinds_is_rendered() -> None:
    objects = rendered()
    assert not of_kind(objects, "PrometheusRule")
    assert not of_kind(objects, "PodMonitor")


def test_the_rules_are_those_of_the_plain_file() -> None:
    (rule,) = of_kind(rendered(*OPERATOR), "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load(Path(CHART / "files/alerts/inference-gateway.rules.yaml").read_text())


@pytest.mark.parametrize(("seconds", "bound"), [("5", "5.0"), ("0.75", "0.75")])
def test_the_ttft_service_level_is_a_value(seconds: str, bound: str) -> None:
    """It changes the bucket's bound in recordings and the text of alerts, and nothing else."""
    plain = Path(CHART / "files/alerts/inference-gateway.rules.yaml").read_text()
    flags = ("--set-json", f"observability.rules.ttftSeconds={seconds}")
    (rule,) = of_kind(rendered(*OPERATOR, *flags), "PrometheusRule").values()
    expected = plain.replace('le="2.5"', f'le="{bound}"').replace("than 2.5 s", f"than {seconds} s")
    assert rule["spec"] == yaml.safe_load(expected)
    assert "2.5" not in yaml.safe_dump(rule["spec"])


@pytest.mark.parametrize("values", [(), SINK], ids=["defaults", "kitchen-sink"])
def test_each_monitor_selects_pods_and_one_of_their_ports(values: tuple[str, ...]) -> None:
    """Envoy Gateway creates Envoy's pods: their monitor is tested on a cluster."""
    objects = rendered(*values, *OPERATOR)
    pods = [deployment["spec"]["template"] for deployment in of_kind(objects, "Deployment").values()]
    monitors = of_kind(objects, "PodMonitor")
    assert len(monitors) == 4
    for name, monitor in monitors.items():
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        if endpoint["path"] == "/stats/prometheus":
            continue
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        chosen = [pod for pod in pods if labels <= pod["metadata"]["labels"].items()]
        assert len(chosen) == 1, name
        ports = [port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]]
        assert endpoint["port"] in ports


def test_labels_for_prometheus_selectors_can_be_added() -> None:
    objects = rendered(*SINK, *OPERATOR)
    for manifest in (*of_kind(objects, "PrometheusRule").values(), *of_kind(objects, "PodMonitor").values()):
        assert manifest["metadata"]["labels"]["release"] == "prometheus"
