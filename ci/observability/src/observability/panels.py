"""The model of a dashboard: rows of panels, each with title, unit, queries and legends.

Grafana's JSON and the drawn dashboards are both made from it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum


class Unit(Enum):
    """The unit of a panel's values: Grafana's name of it, and the label of a drawn axis."""

    COUNT = ("short", "")
    SHARE = ("percentunit", "%")
    SECONDS = ("s", "s")
    REQUESTS_PER_S = ("reqps", "requests/s")
    TOKENS = ("suffix: tokens", "tokens")
    TOKENS_PER_S = ("suffix: tok/s", "tokens/s")
    PER_S = ("ops", "1/s")
    BYTES = ("bytes", "bytes")
    CORES = ("suffix: cores", "cores")

    @property
    def grafana(self) -> str:
        return self.value[0]

    @property
    def axis(self) -> str:
        return self.value[1]


class Kind(StrEnum):
    """How a panel shows its series."""

    LINES = "lines"
    STACKED = "stacked"
    NUMBER = "number"
    """Shows the newest value as text."""


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL query. It may contain the dashboard's variables ($model, ...), and `$__rate_interval` as the window of
    rates."""

    expression: str
    legend: str
    """Legend of the series. `{{label}}` is replaced by a label's value."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    unit: Unit
    queries: tuple[Query, ...]
    description: str = ""
    """What the panel shows beyond its title, and which values indicate a problem."""
    kind: Kind = Kind.LINES
    width: int = 8
    """Width in Grafana's 24 columns."""
    high: float | None = None
    """Upper end of the axis, if the values are bounded."""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a dashboard, which selects values of a label."""

    name: str
    label: str
    """Text shown next to the selection."""
    metric: str
    """The metric that has the label; a selector may follow the name."""
    of: str
    """The label."""
    excluded: str = ""
    """Regular expression of values that are not offered."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    """Grafana's identifier of the dashboard, and the name of its file."""
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=())
    tags: tuple[str, ...] = ("inference-gateway",)

    def panels(self) -> Iterator[Panel]:
        for row in self.rows:
            yield from row.panels


def panel(
    title: str,
    unit: Unit,
    *queries: tuple[str, str],
    about: str = "",
    kind: Kind = Kind.LINES,
    width: int = 8,
    high: float | None = None,
) -> Panel:
    """Makes a panel; `queries` are pairs of expression and legend."""
    return Panel(title, unit, tuple(Query(*query) for query in queries), about, kind, width, high)


def number(title: str, unit: Unit, expression: str, about: str = "") -> Panel:
    """Makes a panel that shows a single value."""
    return panel(title, unit, (expression, title), about=about, kind=Kind.NUMBER, width=4)
