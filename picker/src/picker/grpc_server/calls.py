"""The gRPC calls of one connection: HTTP/2 events in, messages to each call's handler, no I/O and no clock."""

import re
from collections.abc import Callable, Collection, Mapping

import structlog

from picker.grpc_server.call import Call, Method
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamReset
from picker.grpc_server.http2.headers import CallHeaders
from picker.grpc_server.not_grpc import NotGrpcCall
from picker.grpc_server.status import OK_TRAILERS, RpcError, Status, trailers

FIRST_MESSAGE_TIMEOUT_S = 10.0
"""Limit for a call's first message. Envoy and probes send it with the call's own headers. Judgement: far more than a
slow network needs."""

FAILED = (Status.INTERNAL, "internal error in the handler of this call")

_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

log = structlog.get_logger(__name__)


class CallDispatcher:
    """Dispatches the events of one connection to its calls. `receive` takes the peer's bytes; the caller writes
    `connection.data_to_send()`."""

    def __init__(
        self,
        connection: Connection,
        methods: Mapping[str, Method],
        deadlines: Deadlines[Call],
        flush: Callable[[], None],
        load: ConnectionLimits | None = None,
    ) -> None:
        """`methods` by path. `flush` is called when there is output that no call of `receive` caused. `load` is shared
        by all connections of a listener."""
        self.connection = connection
        self.draining = False
        self._methods = methods
        self._deadlines = deadlines
        self._flush = flush
        self._calls: dict[int, Call] = {}
        self._held_bytes = 0
        """Bytes of incomplete messages, summed over the open calls."""
        self._load = load if load is not None else ConnectionLimits()
        self.began = False
        """Whether any call has begun on this connection."""

    @property
    def held_bytes(self) -> int:
        """Bytes of incomplete messages."""
        return self._held_bytes

    @property
    def open(self) -> Collection[Call]:
        """The open calls."""
        return self._calls.values()

    def __len__(self) -> int:
        """Number of open calls."""
        return len(self._calls)

    def receive(self, data: bytes, now_s: float) -> None:
        """Handles `data` from the peer. `now_s` is the time on the clock of the deadlines."""
        call_of = self._calls.get
        for event in self.connection.receive(data, now_s):
            if type(event) is DataReceived:
                call = call_of(event.stream_id)
                if call is not None:
                    try:
                        self._received(call, event, now_s)
                    except RpcError as error:
                        self.end(call, error.status, error.detail)
                    except Exception:
                        log.exception("grpc.call_failed")
                        self.end(call, *FAILED)
            elif type(event) is RequestReceived:
                self._open(event, now_s)
            elif type(event) is StreamReset:
                self._close(event.stream_id)
            elif type(event) is ConnectionTerminated:
                log.warning("grpc.connection_failed", code=event.code.name, detail=event.detail)
                self.lost()

    def end_silent(self, now_s: float, limit_s: float) -> None:
        """Ends calls without a first message, and calls that have no deadline and were silent for `limit_s`. A periodic
        check costs less than a deadline for each call."""
        begun_before_s, data_before_s = now_s - FIRST_MESSAGE_TIMEOUT_S, now_s - limit_s
        silent = [
            call
            for call in self._calls.values()
            if call.last_data_s < (data_before_s if call.begun else begun_before_s)
            and (not call.begun or (call.ends_when_silent and call.deadline_s is None))
        ]
        for call in silent:
            self.end(call, Status.OK if call.begun else Status.DEADLINE_EXCEEDED, "")
            self._load.silent += call.begun
        if silent:
            self._flush()

    def expire(self, call: Call, now_s: float) -> None:
        """Implements `CallContext.expire`."""
        if call.due_s is not None and now_s >= call.due_s:
            self.end(call, Status.DEADLINE_EXCEEDED, "")
        else:
            self._guarded(self._expired, call, now_s)
        self._flush()

    def drain(self) -> None:
        """Accepts no new calls, and ends each open call as soon as its client does not need it."""
        self.draining = True
        for call in list(self._calls.values()):
            call.drain()
        self.connection.shut_down()
        self._flush()

    def lost(self) -> None:
        """Closes all calls after the connection is lost."""
        for stream_id in list(self._calls):
            self._close(stream_id)

    def end(self, call: Call, status: Status, detail: str) -> None:
        """Implements `Call.end`."""
        if self._calls.get(call.stream_id) is call:
            succeeded = status is Status.OK and call.answered
            self.connection.end(
                call.stream_id, OK_TRAILERS if succeeded else trailers(status, detail, alone=not call.answered)
            )
            self._close(call.stream_id)

    def flush(self) -> None:
        """Implements `CallContext.flush`."""
        self._flush()

    def _open(self, opened: RequestReceived, now_s: float) -> None:
        headers = opened.headers
        try:
            load = self._load
            if load.calls >= load.max_calls or len(self._calls) >= load.max_calls_per_connection:
                raise RpcError(Status.RESOURCE_EXHAUSTED, "too many concurrent calls")
            call = self._begin(opened.stream_id, headers, now_s)
        except RpcError as error:
            self.connection.end(opened.stream_id, trailers(error.status, error.detail, alone=True))
            return
        self._calls[opened.stream_id] = call
        load.calls += 1
        self.began = True
        call.last_data_s = now_s
        if opened.ended:
            self._guarded(self._half_closed, call)
        elif call.due_s is not None:
            self._wait(call, None, now_s)

    def _begin(self, stream_id: int, headers: CallHeaders, now_s: float) -> Call:
        """Creates the call of a request; a NotGrpcCall for one that is not gRPC. Raises RpcError."""
        if not _is_grpc(headers):
            return NotGrpcCall(self, stream_id, 415)
        if headers.method != "POST":
            return NotGrpcCall(self, stream_id, 405)
        method = self._methods.get(headers.path)
        if method is None:
            raise RpcError(Status.UNIMPLEMENTED, f"unknown method {headers.path}")
        if (encoding := headers.headers.get("grpc-encoding", "identity")) != "identity":
            raise RpcError(Status.UNIMPLEMENTED, f"unsupported grpc-encoding {encoding}: only identity is supported")
        call = method(self, stream_id, headers)
        if (timeout := headers.headers.get("grpc-timeout")) is not None:
            match = _TIMEOUT.fullmatch(timeout)
            if match is None:
                call.closed()
                detail = f"invalid grpc-timeout {timeout}: expected 1 to 8 digits and a unit (H M S m u n)"
                raise RpcError(Status.INVALID_ARGUMENT, detail)
            call.due_s = now_s + int(match[1]) * _UNITS_S[match[2]]
        return call

    def _received(self, call: Call, event: DataReceived, now_s: float) -> None:
        if event.data:
            reader = call.reader
            held_bytes = reader.held_bytes
            try:
                call.feed(event.data)
            finally:
                if reader.held_bytes != held_bytes:
                    self._hold(reader.held_bytes - held_bytes)
            if call.begun:
                call.last_data_s = now_s
                wait_s = call.deadline_s
                if wait_s is not None or call.tick:
                    self._wait(call, wait_s, now_s)
        if event.ended:
            self._half_closed(call)

    def _hold(self, more_bytes: int) -> None:
        """Counts `more_bytes`, then raises RpcError if too many bytes are held. They are counted in that case too:
        ending the call subtracts them."""
        self._held_bytes += more_bytes
        self._load.held_bytes += more_bytes
        if more_bytes > 0:
            self._load.check_bytes()

    def _half_closed(self, call: Call) -> None:
        if call.reader.held_bytes:
            raise RpcError(Status.INTERNAL, "client half-closed within a message")
        call.half_closed()

    def _expired(self, call: Call, now_s: float) -> None:
        call.expired()
        self._wait(call, call.deadline_s, now_s)

    def _wait(self, call: Call, wait_s: float | None, now_s: float) -> None:
        """Sets the earlier deadline: the client's own, or that of the next message, `wait_s` from now."""
        if self._calls.get(call.stream_id) is not call:
            return
        at_s = call.due_s if wait_s is None else now_s + wait_s
        if at_s is None:
            self._deadlines.clear(call)
        else:
            self._deadlines.set(call, at_s if call.due_s is None else min(at_s, call.due_s))

    def _guarded(self, step: Callable[..., None], call: Call, *arguments: object) -> None:
        """Runs `step` of `call`. If it fails, only this call ends."""
        try:
            step(call, *arguments)
        except RpcError as error:
            self.end(call, error.status, error.detail)
        except Exception:
            log.exception("grpc.call_failed")
            self.end(call, *FAILED)

    def _close(self, stream_id: int) -> None:
        call = self._calls.pop(stream_id, None)
        if call is not None:
            held_bytes = call.reader.held_bytes
            if held_bytes:
                self._held_bytes -= held_bytes
                self._load.held_bytes -= held_bytes
            self._load.calls -= 1
            self._deadlines.clear(call)
            call.closed()


def _is_grpc(headers: CallHeaders) -> bool:
    content_type = headers.headers.get("content-type", "")
    return content_type.startswith("application/grpc") and content_type[16:17] in ("", "+", ";")
