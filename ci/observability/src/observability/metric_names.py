"""Which metrics are read: for tests, and for those who keep lists of what their Prometheus may take in."""

import re
from collections.abc import Iterable, Iterator

import promql_parser

from observability.panels import Dashboard
from observability.promql import RATE_WINDOW
from observability.rules import Group
from observability.rules.rule import Recording

_CHOICE = re.compile(r"\$\{?\w+\}?")


def with_everything_chosen(expression: str, rate_window: str) -> str:
    """A panel's query as Grafana sends it when no choice has been made at the top of the dashboard."""
    return _CHOICE.sub(".*", expression.replace(RATE_WINDOW, rate_window))


def metrics_in(expression: str) -> set[str]:
    """The names of the series that a query selects. Raises ValueError for what is no PromQL."""
    names: set[str] = set()

    def look(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector) and node.name is not None:
            names.add(node.name)
        return True

    promql_parser.walk(promql_parser.parse(with_everything_chosen(expression, "1m")), look)
    return names


def metrics_of(dashboards: Iterable[Dashboard], groups: Iterable[Group]) -> list[str]:
    """Those that servers and gateway have to expose; what rules record is not among them."""
    expressions = [query.expression for each in dashboards for panel in each.panels() for query in panel.queries]
    rules = [rule for group in groups for rule in group.rules]
    expressions += [rule.expression for rule in rules]
    recorded = {rule.name for rule in rules if isinstance(rule, Recording)}
    return sorted(set(_all_metrics(expressions)) - recorded)


def _all_metrics(expressions: Iterable[str]) -> Iterator[str]:
    for expression in expressions:
        yield from metrics_in(expression)
