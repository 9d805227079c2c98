"""Translation of typed resources to Envoy's configuration: listeners, routes, clusters, endpoints."""
