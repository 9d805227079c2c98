"""Carries exchanges over gRPC. With `health`, the only module of this room that knows what carries them."""

import asyncio
from collections.abc import Callable

import grpc
import structlog

from picker.extproc.codec import decode, encode
from picker.extproc.exchange import Exchange
from picker.extproc.health import Health
from picker.extproc.messages import ProtocolViolation

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
POOL_METADATA = "x-inference-pool"
"""gRPC metadata in which the gateway says which pool a route leads to."""

_MAX_MESSAGE_BYTES = 64 << 20
"""gRPC refuses messages over 4 MiB unless told otherwise, and a refused body fails open silently."""

_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 100_000),
    # Two pickers on one port would each get half the streams and know half the load.
    ("grpc.so_reuseport", 0),
)

log = structlog.get_logger(__name__)

_Call = grpc.aio.ServicerContext[bytes, bytes]


class ExtProcServer:
    """Listens for Envoy's external processing streams; one Exchange each."""

    def __init__(self, new_exchange: Callable[[], Exchange], address: str, health_address: str | None = None) -> None:
        """`address`, `health_address`: `host:port`; port 0 takes any free one (see `port`). Health is answered on both.
        Raises RuntimeError when an address cannot be listened on."""
        self._new_exchange = new_exchange
        self._settled: set[asyncio.Task[None]] = set()
        self._draining = False
        self._health = Health()
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._process)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),))
        self._health.add_to(self._server)
        self.port = self._server.add_insecure_port(address)
        self._servers = [self._server]
        if health_address is not None:
            separate = grpc.aio.server()
            self._health.add_to(separate)
            separate.add_insecure_port(health_address)
            self._servers.append(separate)

    async def start(self) -> None:
        """Listen; not ready until told so."""
        await self._health.ready(False)
        for server in self._servers:
            await server.start()

    async def ready(self, is_ready: bool) -> None:
        """What health checks are told."""
        await self._health.ready(is_ready)

    async def drain(self, grace_s: float) -> None:
        """Take no new streams, let every one get its pick, and end each once Envoy can do without it: an external
        processor that closes its stream in good order is not missed for the rest of the request. What is not done
        after `grace_s` is cut."""
        await self._health.ready(False)
        self._draining = True
        stopping = [asyncio.ensure_future(server.stop(grace_s)) for server in self._servers]
        for task in self._settled:
            task.cancel()
        await asyncio.gather(*stopping)

    async def _process(self, _requests: object, call: _Call) -> None:
        exchange = self._new_exchange()
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._converse(exchange, call, task)
        except asyncio.CancelledError:
            # Ours, to drain: returning ends the stream in good order. Otherwise Envoy has gone.
            if not (self._draining and exchange.settled):
                raise
        finally:
            self._settled.discard(task)
            exchange.close()

    async def _converse(self, exchange: Exchange, call: _Call, task: asyncio.Task[None]) -> None:
        pool = _pool(call)
        while (data := await _read(exchange, call)) is not None:
            try:
                for reply in exchange.receive(decode(data, pool)):
                    await call.write(encode(reply))
            except ProtocolViolation as violation:
                log.warning("ext_proc.protocol_violation", detail=str(violation))
                await call.abort(grpc.StatusCode.INVALID_ARGUMENT, str(violation))
            except Exception:
                log.exception("ext_proc.failed")
                for reply in exchange.fail():
                    await call.write(encode(reply))
                return
            if exchange.settled:
                if self._draining:
                    return
                self._settled.add(task)


async def _read(exchange: Exchange, call: _Call) -> bytes | None:
    """The next message; None at the end of the stream, and when the exchange's deadline has passed and was answered."""
    if exchange.deadline_s is None:
        data = await call.read()
    else:
        try:
            async with asyncio.timeout(exchange.deadline_s):
                data = await call.read()
        except TimeoutError:
            for reply in exchange.expire():
                await call.write(encode(reply))
            return None
    return None if data is grpc.aio.EOF else data


def _pool(call: _Call) -> str | None:
    for key, value in call.invocation_metadata() or ():
        if key == POOL_METADATA:
            return value if isinstance(value, str) else value.decode()
    return None
