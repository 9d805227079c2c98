"""Runs scenarios with schedulers and seeds, and computes measures, tables and plots."""
