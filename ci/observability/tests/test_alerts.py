"""Alerts, checked by promtool: each fires in its case, and stays silent in the others."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from observability.metric_names import metrics_in
from observability.rules import GROUPS
from observability.rules.recording import TTFT_GOAL_S
from observability.rules.rule import RUNBOOK, Alert, Recording
from vllm_mock.metrics.families import Buckets
from vllm_mock.metrics.profiles import PROFILES

ROOT = Path(__file__).parents[3]
CASES = Path(__file__).parent / "alerts"
RULES = [rule for group in GROUPS for rule in group.rules]
ALERTS = [rule for rule in RULES if isinstance(rule, Alert)]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool on the PATH")


def assert_promtool_succeeds(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def cases(alert: Alert) -> list[dict[str, Any]]:
    return yaml.safe_load((CASES / f"{alert.name}.yaml").read_text())["tests"]


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_passes_its_promtool_cases(alert: Alert) -> None:
    assert_promtool_succeeds("test", "rules", str(CASES / f"{alert.name}.yaml"))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(alert: Alert) -> None:
    fires: set[bool] = set()
    for case in cases(alert):
        of_alert = [test for test in case["alert_rule_test"] if test["alertname"] == alert.name]
        assert of_alert, case["name"]
        fires.add(any(test["exp_alerts"] for test in of_alert))
    assert fires == {True, False}


def test_every_case_belongs_to_an_alert() -> None:
    assert {path.stem for path in CASES.iterdir()} == {alert.name for alert in ALERTS}


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    assert_promtool_succeeds(
        "check", "rules", "--lint=all", str(ROOT / "charts/inference-gateway/files/alerts/inference-gateway.rules.yaml")
    )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_a_section_of_the_runbook(alert: Alert) -> None:
    """The section is long enough to explain the alert and what to do."""
    page = (ROOT / RUNBOOK).read_text()
    section = re.search(rf"^### {alert.name}\n(.+?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert len(section[1].split()) > 25


def test_a_rule_reads_only_recordings_that_precede_it() -> None:
    """Prometheus evaluates the rules of a group in order."""
    recorded: set[str] = set()
    for rule in RULES:
        recordings = {name for name in metrics_in(rule.expression) if name.count(":") == 2}
        assert recordings <= recorded
        if isinstance(rule, Recording):
            recorded.add(rule.name)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_the_ttft_objective_is_a_bucket_bound_of_every_vllm_version(profile: str) -> None:
    """Between two bounds, the number of responses in time is unknown."""
    (family,) = [
        family
        for family in PROFILES[profile].families
        if isinstance(family, Buckets) and family.name == "vllm:time_to_first_token_seconds"
    ]
    assert not callable(family.bounds)
    assert TTFT_GOAL_S in family.bounds
