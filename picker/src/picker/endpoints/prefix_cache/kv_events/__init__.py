"""What model servers themselves say of their prefix caches: vLLM's KV events, over ZeroMQ."""
