"""Requests and their arrivals: scenarios, distributions, traces."""
