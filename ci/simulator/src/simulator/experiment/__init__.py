"""Runs of a scenario over schedulers and seeds, and their measures, tables and plots."""
