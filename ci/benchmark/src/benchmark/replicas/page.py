"""The few lines of a vLLM metrics page that a comparison needs."""

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
    """One look at a replica. NaN for what the page does not say."""

    kv_usage: float
    """0 to 1; the mean of the engines where there are several."""
    running: float
    waiting: float
    prefix_queries: float
    """Prompt tokens looked up in the prefix cache since the server began, and of them those found."""
    prefix_hits: float
    preemptions: float
    """Since the server began."""


UNKNOWN = ReplicaLoad(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
"""Of a replica that did not answer."""


def read_page(page: bytes) -> ReplicaLoad:
    """Read a page of any generation of vLLM: KV cache usage is `kv_cache_usage_perc` since 0.9.2 and was
    `gpu_cache_usage_perc` until 0.10.2 (both in between), and the names of the prefix counters began with `gpu_` until
    0.9.2. Raises nothing, whatever the bytes."""
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
    """Over the engines, by the first name that the page has."""
    return next((sum(values[name]) for name in names if name in values), math.nan)
