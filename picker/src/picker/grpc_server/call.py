"""One gRPC call, and what its handler says to the client."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from picker.grpc_server.framing import MessageReader, framed
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.headers import CallHeaders
from picker.grpc_server.status import RESPONSE_HEADERS, Status


class CallContext(Protocol):
    """What carries a call: see `calls.CallDispatcher`."""

    @property
    def connection(self) -> Connection: ...

    @property
    def draining(self) -> bool:
        """Whether calls shall end as soon as their clients can do without them."""
        ...

    def end(self, call: "Call", status: Status, detail: str) -> None: ...

    def expire(self, call: "Call", now_s: float) -> None:
        """A deadline of `call` has passed."""
        ...

    def flush(self) -> None:
        """Let out what was sent by itself, not as an answer to what has just been received."""
        ...


class Call(ABC):
    """A method of a service is a subclass that says what becomes of the client's messages."""

    __slots__ = ("answered", "begun", "context", "deadline_s", "due_s", "heard_s", "reader", "stream_id", "tick")

    ends_in_silence = True
    """Whether the call ends when its client sends nothing for the listener's limit on silence."""

    def __init__(self, context: CallContext, stream_id: int) -> None:
        self.context = context
        self.stream_id = stream_id
        self.reader = MessageReader()
        self.answered = False
        self.tick = 0
        self.begun = False
        """Whether the first message has come."""
        self.heard_s = 0.0
        """When the client last sent a part of a message; until its first message is whole, when the call began."""
        self.due_s: float | None = None
        """When the client's own timeout ends the call."""
        self.deadline_s: float | None = None
        """How long to wait for the next message before `expired` is called; None: as long as it takes."""

    def feed(self, data: bytes) -> None:
        """The client has sent `data`: whole messages, or parts of them. Raises RpcError."""
        for message in self.reader.feed(data):
            self.begun = True
            self.received(message)

    @abstractmethod
    def received(self, message: bytes) -> None:
        """The client has sent `message`. Raises RpcError."""

    def half_closed(self) -> None:
        """The client has sent all that it wanted to."""
        self.end()

    def expired(self) -> None:
        """The next message has not come by the deadline."""
        self.end(Status.DEADLINE_EXCEEDED)

    @abstractmethod
    def drain(self) -> None:
        """The server wants to stop: end now if the client does not need the rest."""

    @abstractmethod
    def closed(self) -> None:
        """The call is over, however that came; called once, and nothing after it."""

    def send(self, message: bytes) -> None:
        """Answer with `message`; after the end of the call a no-op."""
        connection = self.context.connection
        if not self.answered:
            self.answered = True
            connection.respond(self.stream_id, RESPONSE_HEADERS)
        connection.send(self.stream_id, framed(message))

    def end(self, status: Status = Status.OK, detail: str = "") -> None:
        """End the call; after its end a no-op."""
        self.context.end(self, status, detail)


Method = Callable[[CallContext, int, CallHeaders], Call]
"""Begins a call: what carries it, its stream, its metadata."""
