"""The metrics that dashboards and rules read: for tests, and for allow lists of Prometheus."""

import re
from collections.abc import Iterable, Iterator

import promql_parser

from observability.panels import Dashboard
from observability.promql import RATE_WINDOW
from observability.rules import Group
from observability.rules.rule import Recording

_CHOICE = re.compile(r"\$\{?\w+\}?")


def with_all_selected(expression: str, rate_window: str) -> str:
    """A panel's query as Grafana sends it if every variable of the dashboard is set to all."""
    return _CHOICE.sub(".*", expression.replace(RATE_WINDOW, rate_window))


def metrics_in(expression: str) -> set[str]:
    """The names of the series that a query selects. Raises ValueError if it is no PromQL."""
    names: set[str] = set()

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector) and node.name is not None:
            names.add(node.name)
        return True

    promql_parser.walk(promql_parser.parse(with_all_selected(expression, "1m")), visit)
    return names


def metrics_of(dashboards: Iterable[Dashboard], groups: Iterable[Group]) -> list[str]:
    """The metrics that servers and gateway must expose, sorted. Series that rules record are excluded."""
    panels = [panel for dashboard in dashboards for panel in dashboard.panels()]
    expressions = [query.expression for panel in panels for query in panel.queries]
    rules = [rule for group in groups for rule in group.rules]
    expressions += [rule.expression for rule in rules]
    recorded = {rule.name for rule in rules if isinstance(rule, Recording)}
    return sorted(set(_all_metrics(expressions)) - recorded)


def _all_metrics(expressions: Iterable[str]) -> Iterator[str]:
    for expression in expressions:
        yield from metrics_in(expression)
