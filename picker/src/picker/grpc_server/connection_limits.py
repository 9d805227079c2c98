"""Limits that all connections of one listener share, and the current counts."""

from dataclasses import dataclass

from picker.grpc_server.status import RpcError, Status

MAX_CALLS_PER_CONNECTION = 10_000
"""Equal to the limit on HTTP/2 streams, `http2.limits.MAX_STREAMS`."""

MAX_CALLS = 50_000
"""Open calls of all connections together: five busy connections. A call that waits for its response costs 4 KB, so
these cost 200 MB of a container's 1 GiB."""

MAX_HELD_BYTES = 256 << 20
"""Bytes of incomplete messages: sixteen of the largest bodies arriving at once. The call that exceeds the limit is
rejected; the others can finish."""

MAX_CONNECTIONS = 4_096
"""Each worker of each Envoy keeps one or two connections, so this serves 128 proxies of 16 workers. Measured: an idle
connection costs 6 KB."""


@dataclass(slots=True)
class ConnectionLimits:
    """Current counts, and their limits."""

    max_calls: int = MAX_CALLS
    max_held_bytes: int = MAX_HELD_BYTES
    max_connections: int = MAX_CONNECTIONS
    max_calls_per_connection: int = MAX_CALLS_PER_CONNECTION
    oldest_goes: bool = False
    """Which connection is closed when there is one too many: True, the oldest; False, the oldest without a call, which
    may be the new one."""
    calls: int = 0
    held_bytes: int = 0
    silent: int = 0
    """Calls ended because their clients were silent for too long, since the last log line."""
    refused: int = 0
    """Connections closed because there were too many, since the last log line."""

    def check_bytes(self) -> None:
        """Raises RpcError if more bytes are held than allowed."""
        if self.held_bytes > self.max_held_bytes:
            raise RpcError(Status.RESOURCE_EXHAUSTED, "too many bytes of incomplete messages")
