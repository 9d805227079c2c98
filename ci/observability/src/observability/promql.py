"""Builds the PromQL expressions of dashboards and rules."""

from collections.abc import Callable, Sequence

RATE_WINDOW = "$__rate_interval"
"""Grafana replaces it by four scrape intervals, or by the distance between two points if that is longer."""

Read = Callable[[str], str]
"""Returns the expression that reads the metric of the given name."""


def selected(selector: str) -> Read:
    return lambda name: f"{name}{{{selector}}}" if selector else name


def rate(selector: str, window: str = RATE_WINDOW) -> Read:
    return lambda name: f"rate({selected(selector)(name)}[{window}])"


def either(names: Sequence[str], read: Read) -> str:
    """Reads a metric that has several names in different vLLM versions.

    If a server exposes two of them, the first counts: `or` drops series on its right that differ in the name only."""
    joined = " or ".join(read(name) for name in names)
    return f"({joined})" if len(names) > 1 else joined


def quantile(share: float, names: Sequence[str], read: Read, by: str = "") -> str:
    """A quantile of the histogram with one of `names`, over all series or grouped `by` labels."""
    buckets = either([f"{name}_bucket" for name in names], read)
    return f"histogram_quantile({share:g}, sum by ({', '.join(filter(None, (by, 'le')))}) ({buckets}))"


def mean(names: Sequence[str], read: Read, by: str = "") -> str:
    """The mean of the histogram with one of `names`, over all series or grouped `by` labels."""
    sums, counts = (either([f"{name}_{suffix}" for name in names], read) for suffix in ("sum", "count"))
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} ({sums}) / {grouped} ({counts})"
