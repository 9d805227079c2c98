"""Queues of requests that wait for capacity, by criticality and flow."""
