"""Carries one exchange with Envoy over one call of the external processing service."""

from collections.abc import Callable

import structlog

from picker.extproc.codec import decode, encode
from picker.extproc.exchange import Exchange
from picker.extproc.messages import ProtocolViolation, Reply
from picker.grpc_server.call import Call, CallContext, Method
from picker.grpc_server.http2.headers import CallHeaders
from picker.grpc_server.status import RpcError, Status
from picker.protocol import EXT_PROC_SERVICE, POOL_METADATA, TRACE_METADATA
from picker.requestcontrol.rejection import Rejection

PROCESS = f"/{EXT_PROC_SERVICE}/Process"

log = structlog.get_logger(__name__)


class ExtProcStream(Call):
    """Messages of the protocol to the exchange, and its replies back."""

    __slots__ = ("_exchange", "_pool", "_trace")

    def __init__(
        self, context: CallContext, stream_id: int, exchange: Exchange, pool: str | None, trace: str | None
    ) -> None:
        super().__init__(context, stream_id)
        self._exchange = exchange
        if exchange.queue is not None:
            exchange.on_admitted = self._admitted
        self._pool = pool
        self._trace = trace

    def received(self, message: bytes) -> None:
        exchange = self._exchange
        try:
            for reply in exchange.receive(decode(message, self._pool, self._trace)):
                self.send(encode(reply))
            self.deadline_s = exchange.deadline_s
        except ProtocolViolation as violation:
            log.warning("ext_proc.protocol_violation", detail=str(violation))
            raise RpcError(Status.INVALID_ARGUMENT, str(violation)) from violation
        except Exception:
            log.exception("ext_proc.failed")
            self._say_last(exchange.fail())
            return
        if self.context.draining:
            self.drain()

    def _admitted(self, refusal: Rejection | None) -> None:
        """The request was held until now: reply, out of turn."""
        try:
            self._say(self._exchange.resume(refusal))
        except Exception:
            log.exception("ext_proc.failed")
            self._say_last(self._exchange.fail())
        if self.context.draining:
            self.drain()
        self.context.flush()

    def expired(self) -> None:
        if self.begun:
            self._say_last(self._exchange.expire())
        else:
            super().expired()

    def drain(self) -> None:
        """An external processor that closes its stream in good order is not missed for the rest of the request."""
        if self._exchange.settled:
            self.end()

    def closed(self) -> None:
        self._exchange.close()

    def _say(self, replies: list[Reply]) -> None:
        for reply in replies:
            self.send(encode(reply))

    def _say_last(self, replies: list[Reply]) -> None:
        self._say(replies)
        self.end()


def process(new_exchange: Callable[[], Exchange]) -> Method:
    """The service's only method."""

    def begin(context: CallContext, stream_id: int, head: CallHeaders) -> Call:
        metadata = head.headers
        exchange = new_exchange()
        return ExtProcStream(context, stream_id, exchange, metadata.get(POOL_METADATA), metadata.get(TRACE_METADATA))

    return begin
