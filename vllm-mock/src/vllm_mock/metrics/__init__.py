"""What a vLLM server says of itself on /metrics."""
