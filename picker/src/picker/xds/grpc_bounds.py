"""What one caller of our gRPC servers may hold."""

MAX_STREAMS = 1_000
"""Calls at once on a connection. Envoy has a stream for each cluster and opens another connection beyond."""

SERVER_BOUNDS = (
    # Two servers on one port would each get half of the questions.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # For HTTP/2's greeting, and TLS where it is used. gRPC's own is 120 s.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A connection without a call ends; Envoy and Envoy Gateway open another when they need one. Judgement.
    ("grpc.max_connection_idle_ms", 60_000),
    # A peer whose machine is gone is noticed within 40 s, as on the picker's own port.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A peer's name and its headers. gRPC's own, said here because requests carry no more.
    ("grpc.max_metadata_size", 16 << 10),
)
"""Options of each server."""
