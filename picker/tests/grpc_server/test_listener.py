"""The limit on a listener's connections, and its address families."""

import asyncio
import socket

import pytest
import uvloop
from picker.addresses import listening_socket
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.health import Health
from picker.grpc_server.http2 import frames
from picker.grpc_server.listener import Listener
from picker.protocol import HEALTH_SERVICES

SERVER_PREFACE = frames.PREFACE + frames.settings_frame({})


async def _is_closed(reader: asyncio.StreamReader) -> bool:
    """Returns whether the server has closed the connection."""
    try:
        async with asyncio.timeout(0.1):
            await reader.read(-1)
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def _closed_connections(load: ConnectionLimits, count: int) -> list[int]:
    """Returns which of `count` idle connections are closed, in the order of their opening."""
    listener = Listener("[::]:0", Health(HEALTH_SERVICES).methods, Deadlines(), load)
    await listener.start(None)
    opened = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(count)]
    for _, writer in opened:
        writer.write(SERVER_PREFACE)
    await asyncio.sleep(0.05)
    closed = [number for number, (reader, _) in enumerate(opened) if await _is_closed(reader)]
    for _, writer in opened:
        writer.close()
    await listener.drain(0)
    return closed


@pytest.mark.parametrize("oldest_goes", [True, False])
def test_excess_connection_closes_the_oldest_idle_one(oldest_goes: bool) -> None:
    """All connections are idle, so that both settings close the oldest."""
    assert asyncio.run(_closed_connections(ConnectionLimits(max_connections=3, oldest_goes=oldest_goes), 5)) == [0, 1]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_unspecified_address_accepts_both_families(host: str) -> None:
    """Pods of IPv4 and IPv6 clusters need it."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    with listening_socket("[::]:0") as listening:
        socket.create_connection((host, listening.getsockname()[1]), 2).close()


def test_host_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket of IPv6 cannot be created."""
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], *, family: int = socket.AF_INET, **options: bool) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with listening_socket("[::]:0") as listening:
        socket.create_connection(("127.0.0.1", listening.getsockname()[1]), 2).close()


async def _serve_during_restarts() -> None:
    """Raises TimeoutError unless every connection gets the server's SETTINGS."""
    listener = Listener("127.0.0.1:0", Health(HEALTH_SERVICES).methods, Deadlines())
    await listener.start(None)
    for number in range(40):
        with socket.create_connection(("127.0.0.1", listener.port)) as connection:
            connection.setblocking(False)
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await listener.start(None)
            async with asyncio.timeout(2):
                assert await asyncio.get_running_loop().sock_recv(connection, 1)
    await listener.drain(0)


def test_connections_are_served_while_the_certificate_changes() -> None:
    """On the picker's event loop. asyncio's own discards connections that it accepts while a server closes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_during_restarts())
