"""Typed objects as Envoy's configuration: listeners, routes, clusters, endpoints."""
