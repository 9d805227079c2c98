"""Small conversions for Envoy's messages."""

from envoy.config.core.v3 import address_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value


def pack_any(message: Message) -> Any:
    """Returns `message` as an Any with deterministic bytes: Envoy replaces a listener whose bytes change."""
    packing = Any()
    packing.Pack(message, deterministic=True)
    return packing


def duration(value_s: float) -> Duration:
    whole = int(value_s)
    return Duration(seconds=whole, nanos=round((value_s - whole) * 1e9))


def uint32(value: int) -> UInt32Value:
    return UInt32Value(value=value)


def address(host: str, port: int) -> address_pb2.Address:
    """Returns a TCP address. `host` is an IP address, or a name where the message allows names. `::` includes IPv4."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(address=host, port_value=port, ipv4_compat=host == "::")
    )
