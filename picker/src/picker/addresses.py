"""Addresses to listen on, and whether they can be had."""

import socket
from collections.abc import Mapping

from picker.failures import CommandFailed


class AddressTaken(CommandFailed):
    """An address that is wanted cannot be listened on; the message has a line for each."""


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, an IPv6 host in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_free(wanted: Mapping[str, str]) -> None:
    """`wanted` tells for each purpose its `ip:port`. Raises AddressTaken.

    A look ahead, for a clear word: gRPC says of a taken port only that it failed, and two Envoys of one user would
    share it without a word."""
    problems: list[str] = []
    for purpose, address in wanted.items():
        host, port = split_address(address)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                problems.append(f"{purpose}: cannot listen on {address}: {error.strerror}")
    if problems:
        raise AddressTaken("\n".join(problems))
