"""Network addresses: parsing, listening sockets, and limits on sockets."""

import errno
import resource
import socket
from collections.abc import Mapping

from picker.cli_error import CliError

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
"""Errors of sockets on a host without IPv6."""


class AddressTaken(CliError):
    """An address cannot be listened on; the message has a line for each."""


def split_address(address: str) -> tuple[str, int]:
    """Splits `host:port`, with an IPv6 host in brackets. Raises ValueError without a numeric port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Joins host and port to `host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening_socket(address: str, backlog: int = 128) -> socket.socket:
    """Returns a socket that listens on `address` (`host:port`). Raises OSError.

    The host `::` accepts IPv6 and IPv4, or only IPv4 on a host without IPv6. Port 0 takes any free one."""
    host, port = split_address(address)
    # SO_REUSEPORT is not set: two pickers on one port would each get half of the calls and see half of the load.
    if host == "::":
        try:
            return socket.create_server((host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
            host = "0.0.0.0"
        except ValueError:
            # Dual-stack sockets are not supported here.
            host = "0.0.0.0"
    return socket.create_server((host, port), family=_family(host), backlog=backlog)


def every_ip() -> str:
    """Returns the unspecified address: `::`, or `0.0.0.0` on a host without IPv6."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


MAX_SOCKETS = 65_536
"""Limit on file descriptors: all connections of proxies, and one to each of thousands of model servers. Judgement."""


def allow_many_sockets() -> None:
    """Raises the soft limit of file descriptors, often 1,024, to MAX_SOCKETS as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_SOCKETS if hard == resource.RLIM_INFINITY else min(MAX_SOCKETS, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def check_free(addresses: Mapping[str, str]) -> None:
    """Checks that the addresses are free. `addresses`: `ip:port` by purpose. Raises AddressTaken.

    The check runs before the start. For a used port gRPC reports only a failure, and two Envoys of one user would share
    it."""
    problems: list[str] = []
    for purpose, address in addresses.items():
        try:
            listening_socket(address).close()
        except OSError as error:
            problems.append(f"{purpose}: cannot listen on {address}: {error.strerror}")
    if problems:
        raise AddressTaken("\n".join(problems))
