"""Dashboards, alerts and recording rules of the gateway as code."""
