"""Addresses to listen on, and whether they can be had."""

import errno
import resource
import socket
from collections.abc import Mapping

from picker.cli_error import CliError

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
"""What sockets fail with on a machine without IPv6, or with IPv6 switched off."""


class AddressTaken(CliError):
    """An address that is wanted cannot be listened on; the message has a line for each."""


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, an IPv6 host in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening_socket(address: str, backlog: int = 128) -> socket.socket:
    """A socket that listens on `address`, `host:port`. The host `::` takes IPv6 and IPv4 alike, or IPv4 alone where the
    machine has no IPv6; port 0 is any free one. Raises OSError."""
    host, port = split_address(address)
    # No SO_REUSEPORT: two pickers on one port would each get half the calls and know half the load.
    if host == "::":
        try:
            return socket.create_server((host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
            host = "0.0.0.0"
        except ValueError:
            # No sockets of both families here.
            host = "0.0.0.0"
    return socket.create_server((host, port), family=_family(host), backlog=backlog)


def every_ip() -> str:
    """The address that stands for all of this machine's: `::`, or `0.0.0.0` where it has no IPv6."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


MOST_SOCKETS = 65_536
"""File descriptors that are ever of use: all connections of proxies, and one to each of thousands of model servers."""


def allow_many_sockets() -> None:
    """Raise the soft limit of file descriptors, often 1,024, as far as the hard one allows and the picker has use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_SOCKETS if hard == resource.RLIM_INFINITY else min(MOST_SOCKETS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_free(wanted: Mapping[str, str]) -> None:
    """`wanted` tells for each purpose its `ip:port`. Raises AddressTaken.

    A check before the start: gRPC reports of a taken port only that it failed, and two Envoys of one user would share
    it."""
    problems: list[str] = []
    for purpose, address in wanted.items():
        try:
            listening_socket(address).close()
        except OSError as error:
            problems.append(f"{purpose}: cannot listen on {address}: {error.strerror}")
    if problems:
        raise AddressTaken("\n".join(problems))
