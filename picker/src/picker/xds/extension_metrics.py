"""Metrics of the calls of Envoy Gateway's extension hooks."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import grpc
from prometheus_client import Counter, Histogram, Metric
from prometheus_client.registry import Collector

HOOKS = ("PostRouteModify", "PostClusterModify", "PostTranslateModify")

_BUCKETS_S = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Judgement: from the time of one route to the time after which an operator waits for a change."""


class ExtensionMetrics(Collector):
    """Counts the calls of each hook by their result, and measures them."""

    def __init__(self) -> None:
        self._calls = Counter(
            "inference_gateway_extension_calls",
            "Calls of the extension's hooks by Envoy Gateway",
            ("hook", "result"),
            registry=None,
        )
        self._seconds = Histogram(
            "inference_gateway_extension_call_seconds",
            "Duration of these calls",
            ("hook",),
            buckets=_BUCKETS_S,
            registry=None,
        )
        for hook in HOOKS:
            for result in ("ok", "unavailable", "internal"):
                self._calls.labels(hook, result)
            self._seconds.labels(hook)

    @contextmanager
    def call(self, hook: str) -> Generator[None]:
        """Counts one call. `unavailable`: it was aborted, and Envoy Gateway keeps its configuration. `internal`: the
        hook raised another exception."""
        begun_s = time.perf_counter()
        result = "internal"
        try:
            yield
            result = "ok"
        except grpc.aio.AbortError:
            result = "unavailable"
            raise
        finally:
            self._calls.labels(hook, result).inc()
            self._seconds.labels(hook).observe(time.perf_counter() - begun_s)

    def collect(self) -> Iterator[Metric]:
        yield from self._calls.collect()
        yield from self._seconds.collect()
