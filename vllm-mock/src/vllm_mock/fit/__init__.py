"""Fits the four coefficients of the speed model to a benchmark of a real server."""
