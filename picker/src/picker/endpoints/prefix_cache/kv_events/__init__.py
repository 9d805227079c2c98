"""vLLM's KV events over ZeroMQ: model servers report the blocks in their prefix caches."""
