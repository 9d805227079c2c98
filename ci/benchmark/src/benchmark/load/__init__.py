"""Sending a workload and measuring each request."""
