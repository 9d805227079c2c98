"""gRPC calls over a connection in memory, made by the client of the package h2."""

import pytest
import structlog
from exchange_conversation import FakeDirector, FakeQueue
from h2.events import ResponseReceived, StreamEnded, TrailersReceived
from http2_peer import REQUEST, H2Client
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.request_phase import BODY_TIMEOUT_S
from picker.extproc.stream import PROCESS, process
from picker.grpc_server.call import Call
from picker.grpc_server.calls import FIRST_MESSAGE_TIMEOUT_S, CallDispatcher
from picker.grpc_server.connection_limits import ConnectionLimits
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.framing import MessageReader, framed
from picker.grpc_server.health import Health
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.events import Event
from picker.grpc_server.http2.headers import HeaderBlockCache
from picker.grpc_server.status import MAX_DETAIL_CHARACTERS, Status, trailers
from picker.protocol import HEALTH_SERVICES
from wire_messages import body_message, headers_message


class Server:
    """The calls of one connection, with the interface of `Connection` that `H2Client` needs."""

    def __init__(
        self, director: FakeDirector, queue: FakeQueue | None = None, load: ConnectionLimits | None = None
    ) -> None:
        self.connection = Connection(HeaderBlockCache())
        self.deadlines: Deadlines[Call] = Deadlines()
        self.health = Health(HEALTH_SERVICES)
        self.flushed = 0
        methods = {
            PROCESS: process(lambda: Exchange(director, Limits(max_body_bytes=1 << 20), queue=queue)),
            **self.health.methods,
        }
        self.calls = CallDispatcher(self.connection, methods, self.deadlines, self._flush, load)
        self.now_s = 100.0

    def receive(self, data: bytes, _now_s: float) -> list[Event]:
        self.calls.receive(data, self.now_s)
        return []

    def data_to_send(self) -> bytes:
        return self.connection.data_to_send()

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for call in self.deadlines.pop_due(self.now_s):
            call.context.expire(call, self.now_s)

    def end_silent(self, limit_s: float = 1000) -> None:
        self.calls.end_silent(self.now_s, limit_s)

    def _flush(self) -> None:
        self.flushed += 1


class Client:
    """Calls methods, and reads the responses."""

    def __init__(
        self, director: FakeDirector | None = None, queue: FakeQueue | None = None, load: ConnectionLimits | None = None
    ) -> None:
        self.director = director or FakeDirector()
        self.server = Server(self.director, queue, load)
        self.peer = H2Client(self.server)  # type: ignore[arg-type]

    def call(self, path: str = PROCESS, *messages: bytes, **metadata: str) -> int:
        fields = [*(field for field in REQUEST if field[0] not in (":path", "content-type")), (":path", path)]
        fields.sort(key=lambda field: not field[0].startswith(":"))
        fields += [
            (name.replace("_", "-"), value) for name, value in {"content_type": "application/grpc", **metadata}.items()
        ]
        stream_id = self.peer.request(fields)
        for message in messages:
            self.send(stream_id, framed(message))
        return stream_id

    def send(self, stream_id: int, data: bytes) -> None:
        self.peer.client.send_data(stream_id, data)
        self.peer.pump()

    def messages(self, stream_id: int) -> list[bytes]:
        return MessageReader().feed(self.peer.body(stream_id))

    def head(self, stream_id: int) -> dict[str, str]:
        """Returns the headers and trailers of a response."""
        found: dict[str, str] = {}
        for event in self.peer.client_events:
            if isinstance(event, ResponseReceived | TrailersReceived) and event.stream_id == stream_id:
                found |= {str(name): str(value) for name, value in event.headers}
        return found

    def status(self, stream_id: int) -> Status:
        """Returns the status with which the call has ended."""
        assert any(isinstance(event, StreamEnded) and event.stream_id == stream_id for event in self.peer.client_events)
        return Status(int(self.head(stream_id)["grpc-status"]))


def test_call_lives_until_the_proxy_ends_it() -> None:
    """Two messages get two replies; the end of the call ends the request."""
    client = Client()
    stream_id = client.call(PROCESS, headers_message(), x_inference_pool="ns/pool")
    assert len(client.messages(stream_id)) == 1
    client.send(stream_id, framed(body_message(b'{"model": "m"}')))
    assert len(client.messages(stream_id)) == 2
    assert client.director.requests[0].pool == "ns/pool"
    assert client.director.ends == []
    client.peer.client.end_stream(stream_id)
    client.peer.pump()
    assert client.status(stream_id) is Status.OK
    assert len(client.director.ends) == 1


def test_traceparent_of_the_call_precedes_the_requests() -> None:
    """The proxy's own span is the parent of the picker's."""
    client = Client()
    client.call(PROCESS, headers_message(traceparent="client"), body_message(b'{"model": "m"}'), traceparent="proxy")
    client.call(PROCESS, headers_message(traceparent="client"), body_message(b'{"model": "m"}'))
    assert [request.info.trace for request in client.director.requests] == ["proxy", "client"]


def test_stream_reset_ends_the_request() -> None:
    """The client has disconnected."""
    client = Client()
    stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.peer.client.reset_stream(stream_id)
    client.peer.pump()
    assert len(client.director.ends) == 1


@pytest.mark.parametrize("draining", [False, True])
def test_queued_request_is_answered_when_admitted(draining: bool) -> None:
    """The reply is written without received bytes. A draining server waits for it, then ends the call."""
    queue = FakeQueue()
    client = Client(queue=queue)
    stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.server.calls.draining = draining
    assert len(client.messages(stream_id)) == 2
    flushed = client.server.flushed
    queue.admit()
    assert client.server.flushed > flushed
    client.peer.pump()
    assert len(client.messages(stream_id)) == 3
    ended = any(isinstance(event, StreamEnded) for event in client.peer.client_events)
    assert ended is draining


def test_stream_reset_removes_the_queued_request() -> None:
    """A later admission is ignored."""
    queue = FakeQueue()
    client = Client(queue=queue)
    stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.peer.client.reset_stream(stream_id)
    client.peer.pump()
    assert queue.left == 1
    queue.admit()
    assert client.director.requests == []


def test_failure_at_admission_sends_an_error_response() -> None:
    """The admitted request gets the error response, and its call ends with OK."""
    queue = FakeQueue()
    client = Client(FakeDirector(RuntimeError("boom")), queue)
    stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    with structlog.testing.capture_logs() as logs:
        queue.admit()
    client.peer.pump()
    assert [line["event"] for line in logs] == ["ext_proc.failed"]
    assert b"internal" in client.messages(stream_id)[-1]
    assert client.status(stream_id) is Status.OK


def test_lost_connection_ends_each_request_once() -> None:
    """The loss is reported twice."""
    client = Client()
    for _ in range(3):
        client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.server.calls.lost()
    client.server.calls.lost()
    assert len(client.director.ends) == 3


def test_message_out_of_order_is_invalid_argument() -> None:
    """The `grpc-message` is the exchange's error text."""
    client = Client()
    stream_id = client.call(PROCESS, body_message(b"{}"))
    assert client.status(stream_id) is Status.INVALID_ARGUMENT
    assert client.head(stream_id)["grpc-message"] == "a request body came when the request's headers was expected"


def test_undecodable_message_is_invalid_argument() -> None:
    """The message is not a ProcessingRequest."""
    client = Client()
    assert client.status(client.call(PROCESS, b"\xff\xff")) is Status.INVALID_ARGUMENT


def test_failed_pick_sends_500_and_next_call_is_served() -> None:
    """The call of the failed request ends with OK."""
    client = Client(FakeDirector(RuntimeError("bug")))
    with structlog.testing.capture_logs() as logs:
        stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    assert [line["event"] for line in logs] == ["ext_proc.failed"]
    assert client.status(stream_id) is Status.OK
    assert b"internal" in client.messages(stream_id)[-1]
    client.director.fails = None
    assert len(client.messages(client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}')))) == 2


def test_missing_body_is_answered_at_the_deadline() -> None:
    """The exchange's deadline applies, without a timer for each call."""
    client = Client()
    stream_id = client.call(PROCESS, headers_message(content_length="10"))
    client.server.wait(BODY_TIMEOUT_S - 1)
    client.peer.pump()
    assert len(client.messages(stream_id)) == 1
    client.server.wait(1.2)
    client.peer.pump()
    assert len(client.messages(stream_id)) == 2
    assert client.status(stream_id) is Status.OK
    assert client.server.flushed == 1
    assert len(client.server.deadlines) == 0


def test_complete_body_leaves_no_deadline() -> None:
    """A response may take hours."""
    client = Client()
    client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    assert len(client.server.deadlines) == 0


@pytest.mark.parametrize(("timeout", "seconds"), [("300m", 0.3), ("2S", 2), ("1M", 60)])
def test_grpc_timeout_ends_the_call(timeout: str, seconds: float) -> None:
    """The exchange itself would wait longer."""
    client = Client()
    stream_id = client.call(PROCESS, headers_message(mode="NONE"), grpc_timeout=timeout)
    client.server.wait(seconds * 0.9 - 0.1)
    client.peer.pump()
    assert "grpc-status" not in client.head(stream_id)
    client.server.wait(seconds * 0.1 + 0.3)
    client.peer.pump()
    assert client.status(stream_id) is Status.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("path", "metadata", "status"),
    [
        ("/unknown.Service/Method", {}, Status.UNIMPLEMENTED),
        ("/envoy.service.ext_proc.v3.ExternalProcessor/Other", {}, Status.UNIMPLEMENTED),
        (PROCESS, {"grpc_encoding": "gzip"}, Status.UNIMPLEMENTED),
        (PROCESS, {"grpc_timeout": "soon"}, Status.INVALID_ARGUMENT),
        (PROCESS, {"grpc_timeout": "123456789S"}, Status.INVALID_ARGUMENT),
    ],
)
def test_invalid_request_headers_get_trailers_only(path: str, metadata: dict[str, str], status: Status) -> None:
    """The response is Trailers-Only and has a `grpc-message`."""
    client = Client()
    stream_id = client.call(path, **metadata)
    assert client.status(stream_id) is status
    assert client.head(stream_id)["grpc-message"]
    assert client.head(stream_id)[":status"] == "200"


def test_compressed_message_is_unimplemented() -> None:
    """`grpc-accept-encoding` names the supported encoding."""
    client = Client()
    stream_id = client.call()
    client.send(stream_id, b"\x01\0\0\0\x01x")
    assert client.status(stream_id) is Status.UNIMPLEMENTED
    assert client.head(stream_id)["grpc-accept-encoding"] == "identity"


def test_half_close_within_a_message_is_an_error() -> None:
    """The call ends with INTERNAL."""
    client = Client()
    stream_id = client.call()
    client.send(stream_id, framed(b"x" * 100)[:50])
    client.peer.client.end_stream(stream_id)
    client.peer.pump()
    assert client.status(stream_id) is Status.INTERNAL


def test_bytes_of_incomplete_messages_are_limited() -> None:
    """The call that exceeds the limit is rejected, and its end frees its bytes."""
    client = Client(load=ConnectionLimits(max_held_bytes=1000))
    first, second = client.call(), client.call()
    client.send(first, framed(bytes(2_000))[:800])
    client.send(second, framed(bytes(2_000))[:300])
    assert client.status(second) is Status.RESOURCE_EXHAUSTED
    client.send(first, bytes(150))
    assert "grpc-status" not in client.head(first)


@pytest.mark.parametrize(
    ("method", "kind", "status"),
    [("GET", "text/html", "415"), ("POST", "application/json", "415"), ("GET", "application/grpc", "405")],
)
def test_request_that_is_not_grpc_gets_a_plain_text_hint(method: str, kind: str, status: str) -> None:
    """The response is plain HTTP."""
    client = Client()
    fields = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "x"), ("content-type", kind)]
    stream_id = client.peer.request(fields, end=True)
    assert client.head(stream_id)[":status"] == status
    assert client.peer.body(stream_id).startswith(b"This port speaks gRPC")


def test_drain_ends_picked_calls_and_serves_the_rest() -> None:
    """A picked request's call ends at once; one that still waits for its body is picked first."""
    client = Client()
    client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    waiting = client.call(PROCESS, headers_message())
    client.server.calls.drain()
    # h2 accepts no frames after the first GOAWAY.
    sent = client.server.data_to_send()
    assert trailers(Status.OK) in sent
    assert sent.count(trailers(Status.OK)) == 1
    assert client.server.flushed == 1
    client.peer.client.send_data(waiting, framed(body_message(b'{"model": "m"}')))
    client.server.receive(client.peer.client.data_to_send(), 0)
    sent = client.server.data_to_send()
    assert trailers(Status.OK) in sent
    assert len(client.director.ends) == 2


def test_long_details_fit_in_trailers() -> None:
    """They are cut, percent-encoded, and on one line."""
    block = trailers(Status.INTERNAL, "ü\n%" * 1000, alone=True)
    assert len(block) < 10 * MAX_DETAIL_CHARACTERS
    assert b"\n" not in block
    assert b"%C3%BC%0A%25" in block


def test_rejected_call_frees_its_bytes() -> None:
    """The call is rejected for a message out of order, a compressed flag, or a message that is too long."""
    load = ConnectionLimits()
    client = Client(load=load)
    big = framed(headers_message(x="y" * 40_000))
    for rest in (big[20_000:], big[20_000:] + b"\1\0\0\0\0", big[20_000:] + b"\0\xff\xff\xff\xff"):
        stream_id = client.call(PROCESS, headers_message())
        for at in (0, 10_000):
            client.send(stream_id, big[at : at + 10_000])
        assert load.held_bytes == 20_000
        for at in range(0, len(rest), 10_000):
            client.send(stream_id, rest[at : at + 10_000])
        assert client.status(stream_id) is not Status.OK
        assert load.held_bytes == load.calls == 0


def test_call_without_a_first_message_ends() -> None:
    """It ends after FIRST_MESSAGE_TIMEOUT_S; an incomplete message does not extend the time."""
    client = Client(load=(load := ConnectionLimits()))
    silent, begun = client.call(), client.call()
    client.server.wait(FIRST_MESSAGE_TIMEOUT_S - 1)
    client.send(begun, b"\0")
    client.server.end_silent()
    client.peer.pump()
    assert "grpc-status" not in client.head(silent)
    client.server.wait(1.2)
    client.server.end_silent()
    client.peer.pump()
    assert client.status(silent) is client.status(begun) is Status.DEADLINE_EXCEEDED
    assert load.calls == 0


def test_silent_picked_call_ends() -> None:
    """The request is no longer counted, and the proxy sees status OK."""
    client = Client()
    silent = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.server.wait(50)
    active = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.server.end_silent(10)
    client.peer.pump()
    assert client.status(silent) is Status.OK
    assert "grpc-status" not in client.head(active)
    assert len(client.director.ends) == 1


def test_health_watch_may_be_silent() -> None:
    """Its client sends nothing after its request."""
    client = Client()
    watch = client.call("/grpc.health.v1.Health/Watch", b"")
    client.server.wait(10_000)
    client.server.end_silent(10)
    client.peer.pump()
    assert "grpc-status" not in client.head(watch)


@pytest.mark.parametrize("load", [ConnectionLimits(max_calls=2), ConnectionLimits(max_calls_per_connection=2)])
def test_number_of_calls_is_limited(load: ConnectionLimits) -> None:
    """One more is rejected; a call that ends makes room."""
    client = Client(load=load)
    first, _ = client.call(), client.call()
    assert client.status(client.call()) is Status.RESOURCE_EXHAUSTED
    client.peer.client.reset_stream(first)
    client.peer.pump()
    assert "grpc-status" not in client.head(client.call())
