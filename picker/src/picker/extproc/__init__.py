"""Envoy's external processing protocol: its messages, the exchange of one request, and the gRPC server."""
