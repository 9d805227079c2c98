"""The pieces of PromQL that dashboards and rules are made of."""

from collections.abc import Callable, Sequence

RATE_WINDOW = "$__rate_interval"
"""Grafana puts in four scrape intervals, or the distance of two points where that is more."""

Read = Callable[[str], str]
"""The expression that reads the metric of the given name."""


def selected(selector: str) -> Read:
    return lambda name: f"{name}{{{selector}}}" if selector else name


def rate(selector: str, window: str = RATE_WINDOW) -> Read:
    return lambda name: f"rate({selected(selector)(name)}[{window}])"


def either(names: Sequence[str], read: Read) -> str:
    """Of a metric that has had several names the one that a server has. Where it shows two at once, the first: `or`
    leaves out on its right what differs in the name alone."""
    joined = " or ".join(read(name) for name in names)
    return f"({joined})" if len(names) > 1 else joined


def quantile(share: float, names: Sequence[str], read: Read, by: str = "") -> str:
    """Of the histograms called `names`, over all series or `by` labels."""
    buckets = either([f"{name}_bucket" for name in names], read)
    return f"histogram_quantile({share:g}, sum by ({', '.join(filter(None, (by, 'le')))}) ({buckets}))"


def mean(names: Sequence[str], read: Read, by: str = "") -> str:
    """Of what histograms have counted, over all series or `by` labels."""
    sums, counts = (either([f"{name}_{what}" for name in names], read) for what in ("sum", "count"))
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} ({sums}) / {grouped} ({counts})"
