"""The gRPC health service, `grpc.health.v1`: Check and Watch."""

from collections.abc import Collection, Mapping

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from picker.grpc_server.call import Call, CallContext, Method
from picker.grpc_server.http2.headers import CallHeaders
from picker.grpc_server.status import RpcError, Status

_Serving = health_pb2.HealthCheckResponse


class Health:
    """The health of one server, served wherever its `methods` are registered. Starts as not ready."""

    def __init__(self, services: Collection[str]) -> None:
        """`services`: the service names that are known; others get SERVICE_UNKNOWN."""
        self._services = services
        self._is_ready = False
        self._watches: dict[_Watch, None] = {}

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods of the health service, by path."""

        def check(context: CallContext, stream_id: int, _headers: CallHeaders) -> Call:
            return _Check(context, stream_id, self)

        def watch(context: CallContext, stream_id: int, _headers: CallHeaders) -> Call:
            return _Watch(context, stream_id, self)

        return {"/grpc.health.v1.Health/Check": check, "/grpc.health.v1.Health/Watch": watch}

    def ready(self, is_ready: bool) -> None:
        """Sets the state to SERVING or NOT_SERVING. The service `liveness` is SERVING as long as the server answers."""
        self._is_ready = is_ready
        for watch in list(self._watches):
            watch.notify()
            watch.context.flush()

    def status(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        """Returns the state of `service`; SERVICE_UNKNOWN if it is not one of the services."""
        if service not in self._services:
            return _Serving.SERVICE_UNKNOWN
        return _Serving.SERVING if self._is_ready or service == "liveness" else _Serving.NOT_SERVING

    @property
    def watches(self) -> int:
        """Number of open Watch calls."""
        return len(self._watches)

    def begin_watch(self, watch: "_Watch") -> None:
        self._watches[watch] = None

    def end_watch(self, watch: "_Watch") -> None:
        self._watches.pop(watch, None)


class _Check(Call):
    """A Check call: one request, one response."""

    __slots__ = ("_health",)

    def __init__(self, context: CallContext, stream_id: int, health: Health) -> None:
        super().__init__(context, stream_id)
        self._health = health

    def received(self, message: bytes) -> None:
        service = _service(message)
        status = self._health.status(service)
        if status == _Serving.SERVICE_UNKNOWN:
            raise RpcError(Status.NOT_FOUND, f"unknown service {service}")
        self.send(_Serving(status=status).SerializeToString())
        self.end()

    def half_closed(self) -> None:
        raise RpcError(Status.INVALID_ARGUMENT, "client half-closed without a HealthCheckRequest")

    def drain(self) -> None:
        """Does nothing: the request is about to arrive."""

    def closed(self) -> None:
        """Does nothing: the call holds no resources."""


class _Watch(Call):
    """A Watch call: one request, and a response at each change."""

    __slots__ = ("_health", "_sent_status", "_service")

    ends_when_silent = False

    def __init__(self, context: CallContext, stream_id: int, health: Health) -> None:
        super().__init__(context, stream_id)
        self._health = health
        self._service: str | None = None
        self._sent_status: int | None = None

    def received(self, message: bytes) -> None:
        if self._service is not None:
            raise RpcError(Status.INVALID_ARGUMENT, "more than one HealthCheckRequest")
        self._service = _service(message)
        self._health.begin_watch(self)
        self.notify()

    def half_closed(self) -> None:
        if self._service is None:
            raise RpcError(Status.INVALID_ARGUMENT, "client half-closed without a HealthCheckRequest")

    def notify(self) -> None:
        """Sends the state, unless it equals the last one sent."""
        assert self._service is not None
        status = self._health.status(self._service)
        if status != self._sent_status:
            self._sent_status = status
            self.send(_Serving(status=status).SerializeToString())

    def drain(self) -> None:
        self.end(Status.UNAVAILABLE, "server is shutting down")

    def closed(self) -> None:
        self._health.end_watch(self)


def _service(message: bytes) -> str:
    """Returns the service of a HealthCheckRequest. Raises RpcError."""
    try:
        return health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError:
        raise RpcError(Status.INVALID_ARGUMENT, "message is not a HealthCheckRequest") from None
