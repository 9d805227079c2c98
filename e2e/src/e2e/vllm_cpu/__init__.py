"""Real vLLM servers on CPUs, behind the complete gateway."""
