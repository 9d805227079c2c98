"""Limits on one client of the grpcio servers."""

MAX_STREAMS = 1_000
"""Concurrent calls on a connection. Envoy has a stream for each cluster, and opens another connection beyond this."""

SERVER_BOUNDS = (
    # Two servers on one port would each get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # Limit for the HTTP/2 preface, and for TLS where it is used. gRPC's default is 120 s.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A connection without a call is closed; Envoy and Envoy Gateway open another when they need one. Judgement.
    ("grpc.max_connection_idle_ms", 60_000),
    # A peer whose host is gone is detected within 40 s, as on the ext_proc port.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Limit on metadata: gRPC's default, set explicitly because requests carry little.
    ("grpc.max_metadata_size", 16 << 10),
)
"""Options of each grpcio server."""
