"""Every setting of `benchmark-serving`, read from flags.

The flags, their names and their defaults are those of vLLM's benchmark_serving.py and of its successor `vllm bench
serve`, so that a command line written for them works as typed; unknown ones are refused. Flags of ours are marked."""
