"""What a rule is, and rules as Prometheus reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import yaml

RUNBOOK = "docs/observability.md"


class Severity(StrEnum):
    CRITICAL = "critical"
    """Users notice, now: wake somebody."""
    WARNING = "warning"
    """Users will notice, or do a little: today."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus computes; the name is LEVEL:METRIC:OPERATION."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Alert:
    name: str
    expression: str
    lasts: str
    """How long the expression has to hold; a Prometheus duration."""
    severity: Severity
    summary: str
    """What is wrong, in a line; with Prometheus' templates for labels."""
    description: str
    """What that means, with the value."""

    @property
    def runbook(self) -> str:
        """The section of the docs that says what to do."""
        return f"{RUNBOOK}#{self.name.lower()}"


Rule = Recording | Alert


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    rules: tuple[Rule, ...]
    """Evaluated in order: an alert comes after the recordings that it reads."""


def rules_yaml(groups: Sequence[Group]) -> str:
    """A file for `rule_files`; also the spec of a PrometheusRule."""
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
                "for": rule.lasts,
                "labels": {"severity": rule.severity.value},
                "annotations": {
                    "summary": rule.summary,
                    "description": rule.description,
                    "runbook": rule.runbook,
                },
            }
