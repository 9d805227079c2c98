"""The picker's gRPC server: external processing for Envoy, and health for everyone."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from picker.extproc.exchange import Exchange
from picker.extproc.stream import PROCESS, process
from picker.grpc_server.call import Call
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import TICK_S, Deadlines
from picker.grpc_server.health import Health
from picker.grpc_server.listener import Listener
from picker.grpc_server.tls import CertificatesUnusable, TlsFiles
from picker.protocol import HEALTH_SERVICES

CHECK_S = 1.0
"""Between two looks at certificate files, and at peers for ones that have stalled."""

SWEEP_S = 2.0
"""Between two looks for calls that have been silent too long: a look at 10,000 takes half a millisecond."""


def health_limits() -> ConnectionLimits:
    """Bounds of the health port, which every pod may reach. A kubelet's probe is one connection with one call for a few
    ms, and a question is some 20 bytes. So the oldest connection makes room: it is no probe's."""
    return ConnectionLimits(
        max_calls_per_connection=10, max_calls=2560, max_held_bytes=1 << 20, max_connections=256, oldest_goes=True
    )


SILENCE_LIMIT_S = 3600.0
"""For a call whose request has its endpoint. An answer of 131,072 tokens at 27 ms each takes as long. Ending the call
ends no answer: the proxy goes on without the picker, and the request is not counted any more."""

log = structlog.get_logger(__name__)


class ExtProcServer:
    """Listens for Envoy's external processing streams; one Exchange each."""

    def __init__(
        self,
        new_exchange: Callable[[], Exchange],
        address: str,
        health_address: str | None = None,
        tls: TlsFiles | None = None,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        """`address`, `health_address`: `host:port`; port 0 takes any free one (see `port`). Health is answered on both,
        on the second always without TLS, as probes want it. `silence_limit_s`: see SILENCE_LIMIT_S. Raises OSError when
        an address cannot be listened on, and CertificatesUnusable."""
        self._tls_files = tls
        self._tls_state = tls.state() if tls is not None else ()
        self._tls = tls.context() if tls is not None else None
        self._health = Health(HEALTH_SERVICES)
        self._deadlines: Deadlines[Call] = Deadlines()
        methods = {PROCESS: process(new_exchange), **self._health.methods}
        self._listener = Listener(address, methods, self._deadlines)
        self._probed = (
            Listener(health_address, self._health.methods, self._deadlines, health_limits())
            if health_address is not None
            else None
        )
        self._listeners = [each for each in (self._listener, self._probed) if each is not None]
        self._silence_limit_s = silence_limit_s
        self._keeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def health_port(self) -> int | None:
        return self._probed.port if self._probed is not None else None

    async def start(self) -> None:
        """Listen; not ready until told so."""
        await self._listener.start(self._tls)
        if self._probed is not None:
            await self._probed.start(None)
        self._keeper = asyncio.create_task(self._keep())

    async def ready(self, is_ready: bool) -> None:
        """What health checks are told."""
        self._health.ready(is_ready)

    async def drain(self, grace_s: float) -> None:
        """Take no new streams, let every one get its pick, and end each once Envoy can do without it: an external
        processor that closes its stream in good order is not missed for the rest of the request. What is not done
        after `grace_s` is cut. Probes are answered to the end: alive, and not ready."""
        self._health.ready(False)
        await self._listener.drain(grace_s)
        if self._probed is not None:
            await self._probed.drain(0)
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def _keep(self) -> None:
        """Deadlines, stalled peers, certificates."""
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
                await self._reload_tls()

    async def _reload_tls(self) -> None:
        """New connections get new certificates; while those that there are do not fit together, the old ones."""
        if self._tls_files is None or (state := self._tls_files.state()) == self._tls_state:
            return
        self._tls_state = state
        try:
            tls = self._tls_files.context()
        except CertificatesUnusable as error:
            log.warning("grpc_server.certificates_unusable", detail=str(error))
            return
        await self._listener.start(tls)
        log.info("grpc_server.certificates_reloaded", certificate=str(self._tls_files.certificate))
