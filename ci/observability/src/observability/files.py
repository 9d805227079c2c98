"""The generated files of the chart: dashboards and rules."""

from collections.abc import Mapping
from pathlib import Path

from observability.dashboards import DASHBOARDS
from observability.grafana import grafana_json
from observability.rules import GROUPS
from observability.rules.rule import rules_yaml

RULES_FILE = "alerts/inference-gateway.rules.yaml"


def generated() -> Mapping[str, str]:
    """The content of each generated file, by its path in the folder of the chart's files."""
    dashboards = {f"dashboards/{dashboard.uid}.json": grafana_json(dashboard) for dashboard in DASHBOARDS}
    return {**dashboards, RULES_FILE: rules_yaml(GROUPS)}


def write(folder: Path) -> list[Path]:
    """Writes all files and returns those whose content changed. Raises OSError."""
    changed: list[Path] = []
    for name, text in generated().items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(path)
    return changed
