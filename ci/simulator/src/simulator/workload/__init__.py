"""Workloads: scenarios, distributions, generated requests and traces."""
