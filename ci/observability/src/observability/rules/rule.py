"""The model of recording rules and alerts, and their YAML for Prometheus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import yaml

RUNBOOK = "docs/observability.md"


class Severity(StrEnum):
    CRITICAL = "critical"
    """Users are affected: act at once."""
    WARNING = "warning"
    """Users are affected a little, or will be: act today."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus computes; the name is LEVEL:METRIC:OPERATION."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Alert:
    name: str
    expression: str
    for_duration: str
    """Time for which the expression must hold before the alert fires; a Prometheus duration."""
    severity: Severity
    summary: str
    """One line on what is wrong; may use Prometheus' templates."""
    description: str
    """What it means, with the value."""

    @property
    def runbook(self) -> str:
        """The section of the documentation that explains what to do."""
        return f"{RUNBOOK}#{self.name.lower()}"


Rule = Recording | Alert


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    rules: tuple[Rule, ...]
    """Rules in the order of evaluation. An alert follows the recordings that it reads."""


def rules_yaml(groups: Sequence[Group]) -> str:
    """The rules as YAML, for `rule_files` and for the spec of a PrometheusRule."""
    document = {"groups": [{"name": group.name, "rules": [_rule(rule) for rule in group.rules]} for group in groups]}
    return yaml.safe_dump(document, sort_keys=False, width=1000)


def _rule(rule: Rule) -> Mapping[str, object]:
    match rule:
        case Recording():
            return {"record": rule.name, "expr": rule.expression}
        case Alert():
            return {
                "alert": rule.name,
                "expr": rule.expression,
                "for": rule.for_duration,
                "labels": {"severity": rule.severity.value},
                "annotations": {
                    "summary": rule.summary,
                    "description": rule.description,
                    "runbook": rule.runbook,
                },
            }
