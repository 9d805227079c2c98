"""Every alert fires when it should and keeps still when it should not, by Prometheus' own word."""

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


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def cases(alert: Alert) -> list[dict[str, Any]]:
    return yaml.safe_load((CASES / f"{alert.name}.yaml").read_text())["tests"]


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_does_what_its_cases_say(alert: Alert) -> None:
    promtool("test", "rules", str(CASES / f"{alert.name}.yaml"))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: Alert) -> None:
    fires: set[bool] = set()
    for case in cases(alert):
        told = [test for test in case["alert_rule_test"] if test["alertname"] == alert.name]
        assert told, case["name"]
        fires.add(any(test["exp_alerts"] for test in told))
    assert fires == {True, False}


def test_there_are_no_cases_of_alerts_that_are_gone() -> None:
    assert {path.stem for path in CASES.iterdir()} == {alert.name for alert in ALERTS}


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    promtool(
        "check", "rules", "--lint=all", str(ROOT / "charts/inference-gateway/files/alerts/inference-gateway.rules.yaml")
    )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_leads_to_a_section_of_the_runbook(alert: Alert) -> None:
    """With what it means and what to do."""
    page = (ROOT / RUNBOOK).read_text()
    section = re.search(rf"^### {alert.name}\n(.+?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert len(section[1].split()) > 25


def test_a_rule_reads_what_was_recorded_before_it() -> None:
    """Within an evaluation rules run in order."""
    recorded: set[str] = set()
    for rule in RULES:
        of_ours = {name for name in metrics_in(rule.expression) if name.count(":") == 2}
        assert of_ours <= recorded
        if isinstance(rule, Recording):
            recorded.add(rule.name)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_the_goal_for_the_first_token_is_a_bound_of_every_generations_buckets(profile: str) -> None:
    """Between two bounds nobody can tell how many answers began in time."""
    (family,) = [
        each
        for each in PROFILES[profile].families
        if isinstance(each, Buckets) and each.name == "vllm:time_to_first_token_seconds"
    ]
    assert not callable(family.bounds)
    assert TTFT_GOAL_S in family.bounds
