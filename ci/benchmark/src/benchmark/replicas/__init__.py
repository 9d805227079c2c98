"""Samples the metrics of the model servers while a load runs."""
