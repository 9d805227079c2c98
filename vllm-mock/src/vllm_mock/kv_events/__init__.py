"""What enters and leaves the prefix cache, told over ZeroMQ as vLLM tells it."""
