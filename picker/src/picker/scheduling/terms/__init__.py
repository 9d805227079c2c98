"""The terms of a request's cost on an endpoint."""
