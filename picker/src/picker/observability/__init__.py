"""Metrics, recent decisions, access log and traces. They observe the director, which does not depend on them."""
