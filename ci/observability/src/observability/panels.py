"""A dashboard as people describe it: rows of panels, each with a title, a unit, queries and legends. Grafana's JSON and
pictures are both made from this."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum


class Unit(Enum):
    """Of a panel's values: the name that Grafana gives it, and what stands at the axis of a picture."""

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
    """The newest value, large."""


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, with the dashboard's variables in it ($model, ...) and `$__rate_interval` for the window of rates."""

    expression: str
    legend: str
    """With `{{label}}` for a label's value."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    unit: Unit
    queries: tuple[Query, ...]
    description: str = ""
    """What the panel shows where its title does not say it all, and when to worry."""
    kind: Kind = Kind.LINES
    width: int = 8
    """Of Grafana's 24 columns."""
    high: float | None = None
    """The end of the axis, where values have one."""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard among the values of a label."""

    name: str
    label: str
    """What stands beside the choice."""
    metric: str
    """Whose label it is; a selector may follow the name."""
    of: str
    """The label."""
    leave_out: str = ""
    """Regular expression of values that are no choice."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    """Also the name of its file."""
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
    """A panel; `queries` are pairs of expression and legend."""
    return Panel(title, unit, tuple(Query(*query) for query in queries), about, kind, width, high)


def number(title: str, unit: Unit, expression: str, about: str = "") -> Panel:
    """A panel of a single large value."""
    return panel(title, unit, (expression, title), about=about, kind=Kind.NUMBER, width=4)
