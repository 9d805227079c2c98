"""Small conversions that every Envoy message needs."""

from envoy.config.core.v3 import address_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value


def pack_any(message: Message) -> Any:
    """`message` as an Any, the same bytes each time: Envoy replaces a listener whose bytes have changed."""
    packing = Any()
    packing.Pack(message, deterministic=True)
    return packing


def duration(value_s: float) -> Duration:
    whole = int(value_s)
    return Duration(seconds=whole, nanos=round((value_s - whole) * 1e9))


def uint32(value: int) -> UInt32Value:
    return UInt32Value(value=value)


def uint64(value: int) -> UInt64Value:
    return UInt64Value(value=value)


def address(host: str, port: int) -> address_pb2.Address:
    """A TCP address; `host` is an IP address, or a name where the message's place allows names. `::` is IPv4's
    addresses, too."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(address=host, port_value=port, ipv4_compat=host == "::")
    )
