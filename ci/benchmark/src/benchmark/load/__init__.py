"""Sends a workload and measures each request."""
