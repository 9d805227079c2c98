"""Serves replicas on their ports until the process ends."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from vllm_mock.api.api_server import ApiServer
from vllm_mock.api.app import build_app


class PortTaken(Exception):
    """Another process listens on the port, or the address is not available."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An API server and its listening socket."""

    api_server: ApiServer
    socket: socket.socket

    @property
    def port(self) -> int:
        return self.socket.getsockname()[1]


class _Uvicorn(uvicorn.Server):
    """A uvicorn server that installs no signal handlers: several run in one process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Opens a listening socket. The host `::` accepts IPv6 and IPv4, or IPv4 alone without IPv6. Raises PortTaken."""
    both = host == "::"
    if both and not socket.has_dualstack_ipv6():
        both, host = False, "0.0.0.0"
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048, dualstack_ipv6=both
        )
    except OSError as error:
        raise PortTaken(f"{host}:{port}: {error.strerror}") from None


@contextlib.asynccontextmanager
async def serving(listeners: Sequence[Listener]) -> AsyncGenerator[None]:
    """Serves on all listeners until the block is left; open connections are then closed."""
    servers = [_Uvicorn(_config(build_app(listener.api_server))) for listener in listeners]
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener.socket]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    for listener in listeners:
        listener.api_server.replica.engine.start(listener.api_server.engine_failed)
    try:
        for server in servers:
            await server.ready.wait()
        yield
    finally:
        for server in servers:
            server.should_exit = server.force_exit = True
        await asyncio.gather(*tasks)
        for listener in listeners:
            await listener.api_server.replica.engine.stop()


async def serve_until_signal(listeners: Sequence[Listener], shutdown_timeout_s: float) -> None:
    """Serves until SIGTERM or SIGINT.

    With `shutdown_timeout_s` 0, completions in progress fail at once with an error. Otherwise they are finished and
    new completions are rejected. The process then stays for the whole timeout, as vLLM's does.
    """
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    async with serving(listeners):
        await ending.wait()
        api_servers = [listener.api_server for listener in listeners]
        for api_server in api_servers:
            api_server.replica.draining = True
        if shutdown_timeout_s:
            await asyncio.sleep(shutdown_timeout_s)
        for api_server in api_servers:
            api_server.abort_all()
        # Time to write the last responses.
        await asyncio.sleep(_CLOSE_DELAY_S)


_CLOSE_DELAY_S = 0.03
"""Measured: vLLM 0.32 closes its port about 30 ms after the signal (recordings/0.32.0/behaviour.json)."""


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # The gateway is expected to close idle connections. 5 s is uvicorn's default, which vLLM keeps.
        timeout_keep_alive=5,
    )
