"""The gRPC calls of one connection: HTTP/2's events in, messages to each call's handler, no I/O and no clock."""

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
"""For a call's first message. Envoy and probes send it with the call's own headers."""

FAILED = (Status.INTERNAL, "The server failed on this call.")

_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

log = structlog.get_logger(__name__)


class CallDispatcher:
    """Feed it with `receive` and write what `connection.data_to_send` gives."""

    def __init__(
        self,
        connection: Connection,
        methods: Mapping[str, Method],
        deadlines: Deadlines[Call],
        flush: Callable[[], None],
        load: ConnectionLimits | None = None,
    ) -> None:
        """`methods` by path. `flush` is called when there is something to write that `receive` did not lead to. `load`
        is shared by all connections of a listener."""
        self.connection = connection
        self.draining = False
        self._methods = methods
        self._deadlines = deadlines
        self._flush = flush
        self._calls: dict[int, Call] = {}
        self._held_bytes = 0
        """Of incomplete messages: the sum over the open calls, at any time."""
        self._load = load if load is not None else ConnectionLimits()
        self.began = False
        """Whether a call has ever begun on this connection."""

    @property
    def held_bytes(self) -> int:
        """Of incomplete messages."""
        return self._held_bytes

    @property
    def open(self) -> Collection[Call]:
        """The calls that are open."""
        return self._calls.values()

    def __len__(self) -> int:
        """How many calls are open."""
        return len(self._calls)

    def receive(self, data: bytes, now_s: float) -> None:
        """Handle the bytes `data` from the peer; `now_s` by the clock of the deadlines."""
        call_of = self._calls.get
        for event in self.connection.receive(data, now_s):
            if type(event) is DataReceived:
                call = call_of(event.stream_id)
                if call is not None:
                    try:
                        self._received(call, event, now_s)
                    except RpcError as refused:
                        self.end(call, refused.status, refused.detail)
                    except Exception:
                        log.exception("edge.call_failed")
                        self.end(call, *FAILED)
            elif type(event) is RequestReceived:
                self._open(event, now_s)
            elif type(event) is StreamReset:
                self._close(event.stream_id)
            elif type(event) is ConnectionTerminated:
                log.warning("edge.connection_failed", code=event.code.name, detail=event.detail)
                self.lost()

    def end_silent(self, now_s: float, limit_s: float) -> None:
        """End the calls without a first message, and those that have no deadline and have been silent for `limit_s`.
        A look now and then costs less than a deadline for each call."""
        begun_s, heard_s = now_s - FIRST_MESSAGE_TIMEOUT_S, now_s - limit_s
        silent = [
            call
            for call in self._calls.values()
            if call.heard_s < (heard_s if call.begun else begun_s)
            and (not call.begun or (call.ends_in_silence and call.deadline_s is None))
        ]
        for call in silent:
            self.end(call, Status.OK if call.begun else Status.DEADLINE_EXCEEDED, "")
            self._load.silent += call.begun
        if silent:
            self._flush()

    def expire(self, call: Call, now_s: float) -> None:
        """See `CallContext.expire`."""
        if call.due_s is not None and now_s >= call.due_s:
            self.end(call, Status.DEADLINE_EXCEEDED, "")
        else:
            self._guarded(self._expired, call, now_s)
        self._flush()

    def drain(self) -> None:
        """Take no new calls, and end each as soon as its client can do without it."""
        self.draining = True
        for call in list(self._calls.values()):
            call.drain()
        self.connection.shut_down()
        self._flush()

    def lost(self) -> None:
        """The connection is gone."""
        for stream_id in list(self._calls):
            self._close(stream_id)

    def end(self, call: Call, status: Status, detail: str) -> None:
        """See `Call.end`."""
        if self._calls.get(call.stream_id) is call:
            good = status is Status.OK and call.answered
            self.connection.end(
                call.stream_id, OK_TRAILERS if good else trailers(status, detail, alone=not call.answered)
            )
            self._close(call.stream_id)

    def flush(self) -> None:
        """See `CallContext.flush`."""
        self._flush()

    def _open(self, opened: RequestReceived, now_s: float) -> None:
        head = opened.head
        try:
            load = self._load
            if load.calls >= load.max_calls or len(self._calls) >= load.max_calls_per_connection:
                raise RpcError(Status.RESOURCE_EXHAUSTED, "Too many calls are open at once.")
            call = self._begin(opened.stream_id, head, now_s)
        except RpcError as refused:
            self.connection.end(opened.stream_id, trailers(refused.status, refused.detail, alone=True))
            return
        self._calls[opened.stream_id] = call
        load.calls += 1
        self.began = True
        call.heard_s = now_s
        if opened.ended:
            self._guarded(self._half_closed, call)
        elif call.due_s is not None:
            self._wait(call, None, now_s)

    def _begin(self, stream_id: int, head: CallHeaders, now_s: float) -> Call:
        """Raises RpcError."""
        if not _speaks_grpc(head):
            return NotGrpcCall(self, stream_id, 415)
        if head.method != "POST":
            return NotGrpcCall(self, stream_id, 405)
        method = self._methods.get(head.path)
        if method is None:
            raise RpcError(Status.UNIMPLEMENTED, f"There is no method {head.path}.")
        if (encoding := head.headers.get("grpc-encoding", "identity")) != "identity":
            raise RpcError(Status.UNIMPLEMENTED, f"Messages of encoding {encoding} are not read; use identity.")
        call = method(self, stream_id, head)
        if (timeout := head.headers.get("grpc-timeout")) is not None:
            found = _TIMEOUT.fullmatch(timeout)
            if found is None:
                call.closed()
                raise RpcError(Status.INVALID_ARGUMENT, f"grpc-timeout {timeout} is no time.")
            call.due_s = now_s + int(found[1]) * _UNITS_S[found[2]]
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
                call.heard_s = now_s
                wait_s = call.deadline_s
                if wait_s is not None or call.tick:
                    self._wait(call, wait_s, now_s)
        if event.ended:
            self._half_closed(call)

    def _hold(self, more_bytes: int) -> None:
        """Raises RpcError where too much is held with `more_bytes`, which are counted all the same: ending the call
        takes them off."""
        self._held_bytes += more_bytes
        self._load.held_bytes += more_bytes
        if more_bytes > 0:
            self._load.check_bytes()

    def _half_closed(self, call: Call) -> None:
        if call.reader.held_bytes:
            raise RpcError(Status.INTERNAL, "The last message is incomplete.")
        call.half_closed()

    def _expired(self, call: Call, now_s: float) -> None:
        call.expired()
        self._wait(call, call.deadline_s, now_s)

    def _wait(self, call: Call, wait_s: float | None, now_s: float) -> None:
        """Set the deadline that is due next, the client's own or that of its next message, `wait_s` from now."""
        if self._calls.get(call.stream_id) is not call:
            return
        at_s = call.due_s if wait_s is None else now_s + wait_s
        if at_s is None:
            self._deadlines.clear(call)
        else:
            self._deadlines.set(call, at_s if call.due_s is None else min(at_s, call.due_s))

    def _guarded(self, step: Callable[..., None], call: Call, *arguments: object) -> None:
        """Run `step` of `call`; the call, and nothing else, ends if that fails."""
        try:
            step(call, *arguments)
        except RpcError as refused:
            self.end(call, refused.status, refused.detail)
        except Exception:
            log.exception("edge.call_failed")
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


def _speaks_grpc(head: CallHeaders) -> bool:
    kind = head.headers.get("content-type", "")
    return kind.startswith("application/grpc") and kind[16:17] in ("", "+", ";")
