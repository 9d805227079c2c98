"""Runs an exchange with Envoy over one call of the external processing service."""

from collections.abc import Callable, Iterable, Mapping

import structlog

from picker.extproc.codec import decode, encode, kept_headers
from picker.extproc.exchange import Exchange
from picker.extproc.messages import ProtocolViolation, Reply
from picker.grpc_server.call import Call, CallContext, Method
from picker.grpc_server.http2.headers import CallHeaders
from picker.grpc_server.status import RpcError, Status
from picker.protocol import EXT_PROC_SERVICE, POOL_METADATA, TRACE_METADATA
from picker.rejection import Rejection

PROCESS = f"/{EXT_PROC_SERVICE}/Process"

log = structlog.get_logger(__name__)


class ExtProcStream(Call):
    """Decodes the messages of a call for its exchange, and sends the exchange's replies."""

    __slots__ = ("_exchange", "_kept", "_pool", "_trace")

    def __init__(
        self,
        context: CallContext,
        stream_id: int,
        exchange: Exchange,
        pool: str | None,
        trace: str | None,
        kept: Mapping[bytes, str],
    ) -> None:
        """`kept`: see `codec.kept_headers`."""
        super().__init__(context, stream_id)
        self._exchange = exchange
        if exchange.queues:
            exchange.on_admitted(self._admitted)
        self._pool = pool
        self._trace = trace
        self._kept = kept

    def received(self, message: bytes) -> None:
        exchange = self._exchange
        try:
            for reply in exchange.receive(decode(message, self._pool, self._trace, self._kept)):
                self.send(encode(reply))
            self.deadline_s = exchange.deadline_s
        except ProtocolViolation as violation:
            log.warning("ext_proc.protocol_violation", detail=str(violation))
            raise RpcError(Status.INVALID_ARGUMENT, str(violation)) from violation
        except Exception:
            log.exception("ext_proc.failed")
            self._send_last(exchange.fail())
            return
        if self.context.draining:
            self.drain()

    def _admitted(self, rejection: Rejection | None) -> None:
        """Sends the replies of a request that has left the queue. No message from the proxy triggers them."""
        try:
            self._send_all(self._exchange.resume(rejection))
        except Exception:
            log.exception("ext_proc.failed")
            self._send_last(self._exchange.fail())
        if self.context.draining:
            self.drain()
        self.context.flush()

    def expired(self) -> None:
        if self.begun:
            self._send_last(self._exchange.expire())
        else:
            super().expired()

    def drain(self) -> None:
        """Ends the stream if the exchange is settled: after a graceful close the proxy continues without the picker."""
        if self._exchange.settled:
            self.end()

    def closed(self) -> None:
        self._exchange.close()

    def _send_all(self, replies: list[Reply]) -> None:
        for reply in replies:
            self.send(encode(reply))

    def _send_last(self, replies: list[Reply]) -> None:
        self._send_all(replies)
        self.end()


def process(new_exchange: Callable[[], Exchange], more_headers: Iterable[str] = ()) -> Method:
    """Returns the handler of the service's only method. `new_exchange` is called for each stream. `more_headers`: names
    of headers that its exchanges read, besides those that the protocol defines."""
    kept = kept_headers(*more_headers)

    def begin(context: CallContext, stream_id: int, call_headers: CallHeaders) -> Call:
        metadata = call_headers.headers
        pool, trace = metadata.get(POOL_METADATA), metadata.get(TRACE_METADATA)
        return ExtProcStream(context, stream_id, new_exchange(), pool, trace, kept)

    return begin
