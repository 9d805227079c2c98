"""The base class of one gRPC call on the server side."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from picker.grpc_server.framing import MessageReader, framed
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.headers import CallHeaders
from picker.grpc_server.status import RESPONSE_HEADERS, Status


class CallContext(Protocol):
    """The connection side of a call, implemented by `calls.CallDispatcher`."""

    @property
    def connection(self) -> Connection: ...

    @property
    def draining(self) -> bool:
        """Whether the server is shutting down: calls end as soon as their clients do not need them."""
        ...

    def end(self, call: "Call", status: Status, detail: str) -> None: ...

    def expire(self, call: "Call", now_s: float) -> None:
        """Handles a deadline of `call` that has passed."""
        ...

    def flush(self) -> None:
        """Writes what was sent outside of the handling of received bytes."""
        ...


class Call(ABC):
    """One call of a method; a subclass handles the client's messages."""

    __slots__ = ("answered", "begun", "context", "deadline_s", "due_s", "last_data_s", "reader", "stream_id", "tick")

    ends_when_silent = True
    """Whether the call ends when its client sends nothing for the listener's silence limit."""

    def __init__(self, context: CallContext, stream_id: int) -> None:
        self.context = context
        self.stream_id = stream_id
        self.reader = MessageReader()
        self.answered = False
        self.tick = 0
        self.begun = False
        """Whether the first message is complete."""
        self.last_data_s = 0.0
        """When the client last sent part of a message; when the call began, until its first message is complete."""
        self.due_s: float | None = None
        """When the client's own timeout (`grpc-timeout`) ends the call; None without one."""
        self.deadline_s: float | None = None
        """Seconds to wait for the next message before `expired` is called; None means no timeout."""

    def feed(self, data: bytes) -> None:
        """Handles `data` from the client, which may hold whole messages and parts of them. Raises RpcError."""
        for message in self.reader.feed(data):
            self.begun = True
            self.received(message)

    @abstractmethod
    def received(self, message: bytes) -> None:
        """Handles `message` from the client. Raises RpcError."""

    def half_closed(self) -> None:
        """Handles the end of the client's messages; ends the call unless overridden."""
        self.end()

    def expired(self) -> None:
        """Handles a `deadline_s` that has passed without a message; ends the call unless overridden."""
        self.end(Status.DEADLINE_EXCEEDED)

    @abstractmethod
    def drain(self) -> None:
        """Handles a shutdown of the server: ends the call now if the client does not need the rest."""

    @abstractmethod
    def closed(self) -> None:
        """Handles the end of the call, for any reason. Called once and last."""

    def send(self, message: bytes) -> None:
        """Sends `message` to the client; a no-op after the end of the call."""
        connection = self.context.connection
        if not self.answered:
            self.answered = True
            connection.respond(self.stream_id, RESPONSE_HEADERS)
        connection.send(self.stream_id, framed(message))

    def end(self, status: Status = Status.OK, detail: str = "") -> None:
        """Ends the call; a no-op after its end."""
        self.context.end(self, status, detail)


Method = Callable[[CallContext, int, CallHeaders], Call]
"""Creates a call from its context, its stream and its request headers."""
