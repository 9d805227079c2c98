"""Routes beside vLLM's API for users: the mock's own, and vLLM's for developers."""
