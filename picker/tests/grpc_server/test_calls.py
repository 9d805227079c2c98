"""gRPC calls over a connection in memory, by the package h2's client."""

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
    """A connection's calls under the name that `H2Client` knows a connection by."""

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
    """Calls methods, and reads what comes back."""

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
        """Headers and trailers of an answer."""
        found: dict[str, str] = {}
        for event in self.peer.client_events:
            if isinstance(event, ResponseReceived | TrailersReceived) and event.stream_id == stream_id:
                found |= {str(name): str(value) for name, value in event.headers}
        return found

    def status(self, stream_id: int) -> Status:
        """With which the call has ended."""
        assert any(isinstance(event, StreamEnded) and event.stream_id == stream_id for event in self.peer.client_events)
        return Status(int(self.head(stream_id)["grpc-status"]))


def test_an_exchange_from_headers_to_end() -> None:
    """Two messages, two replies, and the call lives until the proxy ends it."""
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


def test_the_proxys_own_span_goes_before_its_clients() -> None:
    """It is the parent of what the picker does."""
    client = Client()
    client.call(PROCESS, headers_message(traceparent="client"), body_message(b'{"model": "m"}'), traceparent="proxy")
    client.call(PROCESS, headers_message(traceparent="client"), body_message(b'{"model": "m"}'))
    assert [request.info.trace for request in client.director.requests] == ["proxy", "client"]


def test_a_proxy_that_resets_ends_the_exchange() -> None:
    """The client has left."""
    client = Client()
    stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.peer.client.reset_stream(stream_id)
    client.peer.pump()
    assert len(client.director.ends) == 1


@pytest.mark.parametrize("draining", [False, True])
def test_a_held_request_is_answered_when_its_turn_comes(draining: bool) -> None:
    """By a message that goes out by itself; and a server that stops waits for it, and for no more."""
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


def test_a_proxy_that_resets_while_its_request_is_held_gives_the_place_up() -> None:
    """And is told nothing any more."""
    queue = FakeQueue()
    client = Client(queue=queue)
    stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.peer.client.reset_stream(stream_id)
    client.peer.pump()
    assert queue.left == 1
    queue.admit()
    assert client.director.requests == []


def test_a_desk_that_fails_at_a_turn_is_answered_for() -> None:
    """The one whose turn it was: the next has its turn all the same."""
    queue = FakeQueue()
    client = Client(FakeDirector(RuntimeError("boom")), queue)
    stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    with structlog.testing.capture_logs() as logs:
        queue.admit()
    client.peer.pump()
    assert [line["event"] for line in logs] == ["ext_proc.failed"]
    assert b"internal" in client.messages(stream_id)[-1]
    assert client.status(stream_id) is Status.OK


def test_a_lost_connection_ends_all_exchanges() -> None:
    """Each once."""
    client = Client()
    for _ in range(3):
        client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.server.calls.lost()
    client.server.calls.lost()
    assert len(client.director.ends) == 3


def test_a_message_out_of_order_is_an_invalid_argument() -> None:
    """In the words of the exchange."""
    client = Client()
    stream_id = client.call(PROCESS, body_message(b"{}"))
    assert client.status(stream_id) is Status.INVALID_ARGUMENT
    assert client.head(stream_id)["grpc-message"] == "a request body came when the request's headers was expected"


def test_rubbish_is_an_invalid_argument() -> None:
    """The message is no ProcessingRequest."""
    client = Client()
    assert client.status(client.call(PROCESS, b"\xff\xff")) is Status.INVALID_ARGUMENT


def test_a_picker_that_fails_answers_the_client_and_lives_on() -> None:
    """The request gets its 500, the call ends well, the next one is served."""
    client = Client(FakeDirector(RuntimeError("bug")))
    with structlog.testing.capture_logs() as logs:
        stream_id = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    assert [line["event"] for line in logs] == ["ext_proc.failed"]
    assert client.status(stream_id) is Status.OK
    assert b"internal" in client.messages(stream_id)[-1]
    client.director.fails = None
    assert len(client.messages(client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}')))) == 2


def test_a_body_that_does_not_come_is_answered_for() -> None:
    """By the exchange's deadline, not before, and with no timer per call."""
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


def test_a_body_that_has_come_leaves_no_deadline() -> None:
    """An answer may take hours."""
    client = Client()
    client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    assert len(client.server.deadlines) == 0


@pytest.mark.parametrize(("timeout", "seconds"), [("300m", 0.3), ("2S", 2), ("1M", 60)])
def test_a_clients_own_timeout_ends_its_call(timeout: str, seconds: float) -> None:
    """Although the exchange would wait longer."""
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
        ("/nobody.Knows/It", {}, Status.UNIMPLEMENTED),
        ("/envoy.service.ext_proc.v3.ExternalProcessor/Other", {}, Status.UNIMPLEMENTED),
        (PROCESS, {"grpc_encoding": "gzip"}, Status.UNIMPLEMENTED),
        (PROCESS, {"grpc_timeout": "soon"}, Status.INVALID_ARGUMENT),
        (PROCESS, {"grpc_timeout": "123456789S"}, Status.INVALID_ARGUMENT),
    ],
)
def test_what_is_refused_before_any_message(path: str, metadata: dict[str, str], status: Status) -> None:
    """By trailers alone, with a word."""
    client = Client()
    stream_id = client.call(path, **metadata)
    assert client.status(stream_id) is status
    assert client.head(stream_id)["grpc-message"]
    assert client.head(stream_id)[":status"] == "200"


def test_a_compressed_message_is_unimplemented() -> None:
    """And the client is told what is read."""
    client = Client()
    stream_id = client.call()
    client.send(stream_id, b"\x01\0\0\0\x01x")
    assert client.status(stream_id) is Status.UNIMPLEMENTED
    assert client.head(stream_id)["grpc-accept-encoding"] == "identity"


def test_half_a_message_at_the_end_is_an_error() -> None:
    """The call ends, and what was held is not counted any more."""
    client = Client()
    stream_id = client.call()
    client.send(stream_id, framed(b"x" * 100)[:50])
    client.peer.client.end_stream(stream_id)
    client.peer.pump()
    assert client.status(stream_id) is Status.INTERNAL


def test_messages_that_arrive_at_once_are_bounded() -> None:
    """The call that goes beyond is refused, and makes room with its end."""
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
def test_people_at_the_wrong_port_get_a_word(method: str, kind: str, status: str) -> None:
    """In plain HTTP."""
    client = Client()
    fields = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "x"), ("content-type", kind)]
    stream_id = client.peer.request(fields, end=True)
    assert client.head(stream_id)[":status"] == status
    assert client.peer.body(stream_id).startswith(b"This port speaks gRPC")


def test_draining_ends_what_is_settled_and_serves_the_rest() -> None:
    """A picked request's call ends at once; one that still waits for its body gets its pick first."""
    client = Client()
    client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    waiting = client.call(PROCESS, headers_message())
    client.server.calls.drain()
    # h2 takes no frames after the first GOAWAY.
    sent = client.server.data_to_send()
    assert trailers(Status.OK) in sent
    assert sent.count(trailers(Status.OK)) == 1
    assert client.server.flushed == 1
    client.peer.client.send_data(waiting, framed(body_message(b'{"model": "m"}')))
    client.server.receive(client.peer.client.data_to_send(), 0)
    sent = client.server.data_to_send()
    assert trailers(Status.OK) in sent
    assert len(client.director.ends) == 2


def test_long_words_fit_in_trailers() -> None:
    """Cut, percent-encoded, and on one line."""
    block = trailers(Status.INTERNAL, "ü\n%" * 1000, alone=True)
    assert len(block) < 10 * MAX_DETAIL_CHARACTERS
    assert b"\n" not in block
    assert b"%C3%BC%0A%25" in block


def test_bytes_of_a_refused_call_are_not_counted_any_more() -> None:
    """Whatever refuses it: a violation by its next message, a flag, a message that is too long."""
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


def test_a_call_without_a_first_message_ends() -> None:
    """After ten seconds; one that has sent a part of it gets no more time."""
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


def test_a_picked_call_ends_when_it_is_silent_too_long() -> None:
    """The request is not counted any more, and the proxy sees a call that ended in good order."""
    client = Client()
    silent = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.server.wait(50)
    heard = client.call(PROCESS, headers_message(), body_message(b'{"model": "m"}'))
    client.server.end_silent(10)
    client.peer.pump()
    assert client.status(silent) is Status.OK
    assert "grpc-status" not in client.head(heard)
    assert len(client.director.ends) == 1


def test_a_health_watch_may_be_silent() -> None:
    """Its client has nothing to say after its question."""
    client = Client()
    watch = client.call("/grpc.health.v1.Health/Watch", b"")
    client.server.wait(10_000)
    client.server.end_silent(10)
    client.peer.pump()
    assert "grpc-status" not in client.head(watch)


@pytest.mark.parametrize("load", [ConnectionLimits(max_calls=2), ConnectionLimits(max_calls_per_connection=2)])
def test_calls_have_a_bound(load: ConnectionLimits) -> None:
    """One more is refused in words; an end makes room."""
    client = Client(load=load)
    first, _ = client.call(), client.call()
    assert client.status(client.call()) is Status.RESOURCE_EXHAUSTED
    client.peer.client.reset_stream(first)
    client.peer.pump()
    assert "grpc-status" not in client.head(client.call())
