"""Data sets: each makes a `Workload`."""
