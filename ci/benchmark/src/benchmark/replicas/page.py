"""Parses the few lines of a vLLM metrics page that a comparison needs."""

import math
import re
from dataclasses import dataclass

_LINE = re.compile(
    rb"^vllm:(kv_cache_usage_perc|gpu_cache_usage_perc|num_requests_running|num_requests_waiting"
    rb"|(?:gpu_)?prefix_cache_(?:queries|hits)(?:_total)?|num_preemptions_total)(?:\{[^\n]*\})?[ \t]+([^ \t\r\n]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """One sample of a replica's metrics. NaN means that the page does not have the metric."""

    kv_usage: float
    """0 to 1; the mean over the engines if there are several."""
    running: float
    waiting: float
    prefix_queries: float
    """Prompt tokens looked up in the prefix cache since the server started."""
    prefix_hits: float
    """Prompt tokens found there since the server started."""
    preemptions: float
    """Preemptions since the server started."""


UNKNOWN = ReplicaLoad(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
"""The load of a replica that did not answer."""


def read_page(page: bytes) -> ReplicaLoad:
    """Reads a page of any vLLM version. Never raises, whatever the bytes.

    KV cache usage is `kv_cache_usage_perc` since 0.9.2, and `gpu_cache_usage_perc` until 0.10.2 (both in between). The
    names of the prefix counters begin with `gpu_` until 0.9.2."""
    values: dict[bytes, list[float]] = {}
    for name, text in _LINE.findall(page):
        try:
            values.setdefault(name.removesuffix(b"_total"), []).append(float(text))
        except ValueError:
            continue
    usage = values.get(b"kv_cache_usage_perc") or values.get(b"gpu_cache_usage_perc") or [math.nan]
    return ReplicaLoad(
        kv_usage=sum(usage) / len(usage),
        running=_total(values, b"num_requests_running"),
        waiting=_total(values, b"num_requests_waiting"),
        prefix_queries=_total(values, b"prefix_cache_queries", b"gpu_prefix_cache_queries"),
        prefix_hits=_total(values, b"prefix_cache_hits", b"gpu_prefix_cache_hits"),
        preemptions=_total(values, b"num_preemptions"),
    )


def _total(values: dict[bytes, list[float]], *names: bytes) -> float:
    """Sum over the engines of the first of `names` that the page has; NaN if it has none."""
    return next((sum(values[name]) for name in names if name in values), math.nan)
