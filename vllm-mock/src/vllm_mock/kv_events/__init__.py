"""KV events: blocks that enter or leave the prefix cache, published over ZeroMQ as vLLM does."""
