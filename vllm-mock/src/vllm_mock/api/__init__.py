"""The door: vLLM's HTTP surface."""
