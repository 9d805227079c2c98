"""The engine's metrics and the page at /metrics."""
