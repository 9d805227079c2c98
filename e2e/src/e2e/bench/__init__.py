"""Benchmark of the picker's cost through a real Envoy. Results are ratios within one run."""
