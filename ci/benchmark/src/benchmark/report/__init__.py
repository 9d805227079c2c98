"""Plots of a comparison, and its report as an HTML page."""
