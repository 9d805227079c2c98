"""Replicas on their ports, from the first connection to the end of the process."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from vllm_mock.api.api_server import Door
from vllm_mock.api.app import build_app


class PortTaken(Exception):
    """Somebody else listens there."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A door and the socket before it."""

    door: Door
    socket: socket.socket

    @property
    def port(self) -> int:
        return self.socket.getsockname()[1]


class _Uvicorn(uvicorn.Server):
    """Signals are the process's business: several servers run in it."""

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
    """The host `::` takes IPv6 and IPv4 alike, or IPv4 alone where the machine has no IPv6. Raises PortTaken."""
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
    """Serve on all of them until the block is left; connections that are open then are closed."""
    servers = [_Uvicorn(_config(build_app(listener.door))) for listener in listeners]
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener.socket]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    for listener in listeners:
        listener.door.replica.engine.start(listener.door.engine_failed)
    try:
        for server in servers:
            await server.ready.wait()
        yield
    finally:
        for server in servers:
            server.should_exit = server.force_exit = True
        await asyncio.gather(*tasks)
        for listener in listeners:
            await listener.door.replica.engine.stop()


async def serve_until_signal(listeners: Sequence[Listener], shutdown_timeout_s: float) -> None:
    """Serve until SIGTERM or SIGINT.

    Without a timeout what is being answered ends at once, with an error. With one it is finished; new completions are
    refused, and the process stays for the whole time, as vLLM's does."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    async with serving(listeners):
        await ending.wait()
        doors = [listener.door for listener in listeners]
        for door in doors:
            door.replica.draining = True
        if shutdown_timeout_s:
            await asyncio.sleep(shutdown_timeout_s)
        for door in doors:
            door.abort_all()
        # One turn of the loop for each answer to be written.
        await asyncio.sleep(_LAST_WORDS_S)


_LAST_WORDS_S = 0.03
"""vLLM's port was closed some 30 ms after the signal."""


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Idle connections are the gateway's to close; uvicorn's default is vLLM's too.
        timeout_keep_alive=5,
    )
