"""The picker's gRPC server: external processing for Envoy, and gRPC health checks."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from picker.extproc.exchange import Exchange
from picker.extproc.stream import PROCESS, process
from picker.grpc_server.call import Call
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import TICK_S, Deadlines
from picker.grpc_server.health import Health
from picker.grpc_server.listener import Listener
from picker.grpc_server.tls import TlsFiles, WatchedTls
from picker.protocol import HEALTH_SERVICES

CHECK_S = 1.0
"""Between two checks of the certificate files, and for stalled peers. Judgement."""

SWEEP_S = 2.0
"""Between two checks for silent calls. Measured: a check of 10,000 calls takes half a millisecond."""


def health_limits() -> ConnectionLimits:
    """Limits on the health port, which every pod may reach. A probe of the kubelet is one connection with one call of
    some 20 bytes, for a few ms. Beyond the limit the oldest connection is closed, because it is not a probe."""
    return ConnectionLimits(
        max_calls_per_connection=10, max_calls=2560, max_held_bytes=1 << 20, max_connections=256, oldest_goes=True
    )


SILENCE_LIMIT_S = 3600.0
"""For a call whose request has its pick. A response of 131,072 tokens at 27 ms each takes as long. The end of the call
does not end the response: the proxy continues without the picker, and the request is no longer counted."""


class ExtProcServer:
    """Serves Envoy's external processing streams, each with its own Exchange, and health checks."""

    def __init__(
        self,
        new_exchange: Callable[[], Exchange],
        address: str,
        health_address: str | None = None,
        tls: TlsFiles | None = None,
        silence_limit_s: float = SILENCE_LIMIT_S,
        more_headers: Iterable[str] = (),
    ) -> None:
        """`address`, `health_address`: `host:port`; port 0 selects a free port (see `port`). Both serve health checks,
        `health_address` always without TLS, as probes need it. `silence_limit_s`: see SILENCE_LIMIT_S. `more_headers`:
        see `stream.process`. Raises OSError if an address cannot be bound, and CertificatesUnusable."""
        self._tls = WatchedTls(tls)
        self._health = Health(HEALTH_SERVICES)
        self._deadlines: Deadlines[Call] = Deadlines()
        methods = {PROCESS: process(new_exchange, more_headers), **self._health.methods}
        self._listener = Listener(address, methods, self._deadlines)
        self._health_listener = (
            Listener(health_address, self._health.methods, self._deadlines, health_limits())
            if health_address is not None
            else None
        )
        self._listeners = [listener for listener in (self._listener, self._health_listener) if listener is not None]
        self._silence_limit_s = silence_limit_s
        self._maintenance: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def health_port(self) -> int | None:
        return self._health_listener.port if self._health_listener is not None else None

    async def start(self) -> None:
        """Listens. Health checks report not ready until `ready` is called."""
        await self._listener.start(self._tls.context)
        if self._health_listener is not None:
            await self._health_listener.start(None)
        self._maintenance = asyncio.create_task(self._maintain())

    async def ready(self, is_ready: bool) -> None:
        """Sets what health checks report."""
        self._health.ready(is_ready)

    async def drain(self, grace_s: float) -> None:
        """Stops. New streams are rejected. Each open stream gets its pick, and ends when Envoy no longer needs it:
        after a graceful close Envoy continues the request without its external processor. Streams that are open after
        `grace_s` are reset. Health checks are answered to the end: alive, and not ready."""
        self._health.ready(False)
        await self._listener.drain(grace_s)
        if self._health_listener is not None:
            await self._health_listener.drain(0)
        if self._maintenance is not None:
            self._maintenance.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._maintenance

    async def _maintain(self) -> None:
        """Checks deadlines, silent calls, stalled peers and certificates until it is cancelled."""
        loop = asyncio.get_running_loop()
        check_at_s = loop.time() + CHECK_S
        sweep_at_s = loop.time() + SWEEP_S
        while True:
            await asyncio.sleep(TICK_S)
            now_s = loop.time()
            for call in self._deadlines.pop_due(now_s):
                call.context.expire(call, now_s)
            if now_s >= sweep_at_s:
                sweep_at_s = now_s + SWEEP_S
                for listener in self._listeners:
                    listener.end_silent(now_s, self._silence_limit_s)
            if now_s >= check_at_s:
                check_at_s = now_s + CHECK_S
                for listener in self._listeners:
                    listener.check(now_s)
                if self._tls.has_changed():
                    await self._listener.start(self._tls.context)
