"""What a controller does in a cluster: who writes, what is written to the objects' statuses, and what is read there for
Envoy Gateway's sake."""
