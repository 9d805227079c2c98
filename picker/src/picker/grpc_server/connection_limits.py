"""What all connections of one listener hold together, and how much that may be."""

from dataclasses import dataclass

from picker.grpc_server.status import RpcError, Status

MAX_CALLS_PER_CONNECTION = 10_000
"""As many as HTTP/2 streams: see `http2.limits.MAX_STREAMS`."""

MAX_CALLS = 50_000
"""Open at a time: five busy connections' worth. A call that waits for its answer costs 4 KB, so these are 200 MB of a
container's 1 GiB."""

MAX_HELD_BYTES = 256 << 20
"""Of incomplete messages: sixteen of the largest bodies arriving at once. The call that goes beyond is refused; the
others can finish."""

MAX_CONNECTIONS = 4_096
"""Each worker of each Envoy keeps one or two: 128 proxies of 16 workers. An idle one costs 6 KB (measured)."""


@dataclass(slots=True)
class ConnectionLimits:
    """Counts of now, and their bounds."""

    max_calls: int = MAX_CALLS
    max_held_bytes: int = MAX_HELD_BYTES
    max_connections: int = MAX_CONNECTIONS
    max_calls_per_connection: int = MAX_CALLS_PER_CONNECTION
    oldest_goes: bool = False
    """Which connection is cut when there is one too many: the oldest, or the oldest without a call, which may be the
    new one."""
    calls: int = 0
    held_bytes: int = 0
    silent: int = 0
    """Calls that were ended because their clients said nothing for too long, since the last report."""
    refused: int = 0
    """Connections cut because there were too many, since the last report."""

    def check_bytes(self) -> None:
        """Raises RpcError where more bytes are held than allowed."""
        if self.held_bytes > self.max_held_bytes:
            raise RpcError(Status.RESOURCE_EXHAUSTED, "Too many messages are arriving at once.")
