"""The metrics registry of a process: the picker's or the extension's."""

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector


def process_registry() -> CollectorRegistry:
    """Returns a registry with the metrics of the process and of Python. Callers add their own collectors."""
    registry = CollectorRegistry()
    registry.register(ProcessCollector(registry=None))
    registry.register(PlatformCollector(registry=None))
    GCCollector(registry=registry)
    return registry
