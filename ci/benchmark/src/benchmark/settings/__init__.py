"""Every setting of `benchmark-serving`, read from flags.

The flags and their defaults are those of vLLM's benchmark_serving.py and of its successor `vllm bench serve`. A command
line for them works unchanged. Unknown flags are rejected. The help marks additional flags with `(own)`."""
