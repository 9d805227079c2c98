"""The metrics registry of one process, the picker's or the extension's."""

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector


def process_registry() -> CollectorRegistry:
    """A registry with the metrics of the process and of Python. Other parts register their collectors there."""
    registry = CollectorRegistry()
    registry.register(ProcessCollector(registry=None))
    registry.register(PlatformCollector(registry=None))
    GCCollector(registry=registry)
    return registry
