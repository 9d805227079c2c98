"""Runs `benchmark-serving` under the path that `benchmark_serving.py` has in vLLM's images."""

from benchmark.cli import main

main()
