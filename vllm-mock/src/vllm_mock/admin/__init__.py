"""Administrative routes: the mock's own under /mock, and vLLM's development routes."""
