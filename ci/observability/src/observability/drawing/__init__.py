"""Draws dashboards as PNG and HTML, without Grafana."""
