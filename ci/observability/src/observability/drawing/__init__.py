"""Dashboards as pictures, for people without Grafana."""
