"""Dashboards, alerts and recording rules as code."""
