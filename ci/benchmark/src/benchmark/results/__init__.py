"""Computes figures from samples, and writes them as text and JSON."""
