"""`benchmark-serving` under the path at which vLLM's images have the script that it follows."""

from benchmark.cli import main

main()
