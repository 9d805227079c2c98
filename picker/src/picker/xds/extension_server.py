"""The gRPC server of Envoy Gateway's extension hooks."""

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import structlog
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf.message import Message

from picker.resources.inference import InferencePool
from picker.resources.names import ObjectName
from picker.xds import extension_service_pb2 as service_pb2
from picker.xds.extension import Extension, RuleBackend, RuleName, rule_of_route
from picker.xds.extension_metrics import HOOKS, ExtensionMetrics
from picker.xds.extension_objects import pools_of
from picker.xds.grpc_bounds import SERVER_BOUNDS
from picker.xds.picker_ref import Pickers, PickerUnknown

SERVICE = "envoygateway.extension.EnvoyGatewayExtension"

_OPTIONS = (
    # The whole configuration travels in one message, both ways; gRPC's default limit is 4 MiB.
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.max_send_message_length", 256 << 20),
    *SERVER_BOUNDS,
)

log = structlog.get_logger(__name__)

_Call = grpc.aio.ServicerContext[Any, Any]


class RuleLookup(Protocol):
    """Reads a rule's backends, which the context of the hooks lacks."""

    async def backends(self, rule: RuleName) -> Sequence[RuleBackend]:
        """Returns the backends in the order of the HTTPRoute; none if the rule no longer exists. Raises
        LookupFailed."""
        ...

    def invalidate(self) -> None:
        """Discards what was read: the next translation is of newer objects."""
        ...


class LookupFailed(Exception):
    """The HTTPRoute could not be read. Envoy Gateway keeps its configuration and retries."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server's certificate and key, and the CA of its clients' certificates. All PEM."""

    certificate: bytes
    key: bytes
    client_authority: bytes


class ExtensionServer:
    """Serves the hooks to Envoy Gateway.

    With TLS, clients must present a certificate. Without it, responses omit Envoy's private key, because anything that
    reaches the port could read it."""

    def __init__(
        self,
        extension: Extension,
        lookup: RuleLookup,
        pickers: Pickers,
        address: str,
        tls: "Callable[[], ServerTls] | None" = None,
    ) -> None:
        """`address`: `host:port`; port 0 takes any free one (see `port`). `tls` is called at each handshake. Raises
        RuntimeError if the address is in use."""
        self._extension = extension
        self._lookup = lookup
        self._pickers = pickers
        self.metrics = ExtensionMetrics()
        self._server = grpc.aio.server(options=_OPTIONS)
        methods: Sequence[Callable[[Any, _Call], Awaitable[Message]]] = (self._route, self._cluster, self._translation)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            hook: _handler(
                self._counted(hook, method),
                getattr(service_pb2, f"{hook}Request"),
                getattr(service_pb2, f"{hook}Response"),
            )
            for hook, method in zip(HOOKS, methods, strict=True)
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._sends_keys = tls is not None
        if tls is not None:
            self.port = self._server.add_secure_port(address, _credentials(tls))
        else:
            self.port = self._server.add_insecure_port(address)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        """Stops after the calls in progress have ended, at most 5 s."""
        await self._server.stop(5.0)

    def _counted(
        self, hook: str, method: Callable[[Any, _Call], Awaitable[Message]]
    ) -> Callable[[Any, _Call], Awaitable[Message]]:
        async def counted(request: Any, call: _Call) -> Message:
            with self.metrics.call(hook):
                return await method(request, call)

        return counted

    async def _route(self, request: service_pb2.PostRouteModifyRequest, call: _Call) -> Message:
        pools = pools_of(request.post_route_context.extension_resources)
        if not pools:
            return service_pb2.PostRouteModifyResponse(route=request.route)
        route = route_components_pb2.Route.FromString(request.route)
        backends = await self._backends(rule_of_route(route), call)
        made = self._extension.route(route, pools, backends, await self._third_party_pickers(pools, call))
        return service_pb2.PostRouteModifyResponse(route=_bytes(made))

    async def _third_party_pickers(self, pools: Iterable[InferencePool], call: _Call) -> Collection[ObjectName]:
        """Returns the Services of pickers of other projects. Aborts `call` if one is not known yet; Envoy Gateway then
        keeps its configuration."""
        services = {picker.service for pool in pools if (picker := self._extension.picker(pool)) is not None}
        try:
            return {service for service in services if not await self._pickers.is_own_picker(service)}
        except PickerUnknown as error:
            log.warning("extension.picker_unknown", reason=str(error))
            await call.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def _cluster(self, request: service_pb2.PostClusterModifyRequest, call: _Call) -> Message:
        pools = pools_of(request.post_cluster_context.backend_extension_resources)
        if not pools:
            return service_pb2.PostClusterModifyResponse(cluster=request.cluster)
        cluster = cluster_pb2.Cluster.FromString(request.cluster)
        backends = await self._backends(RuleName.of_cluster(cluster.name), call)
        made = self._extension.cluster(cluster, pools, backends)
        return service_pb2.PostClusterModifyResponse(cluster=_bytes(made))

    async def _translation(self, request: service_pb2.PostTranslateModifyRequest, _call: _Call) -> Message:
        self._lookup.invalidate()
        started_s = time.perf_counter()
        received_listeners = list(map(listener_pb2.Listener.FromString, request.listeners))
        routes = list(map(route_pb2.RouteConfiguration.FromString, request.routes))
        clusters, listeners = self._extension.translation(
            map(cluster_pb2.Cluster.FromString, request.clusters),
            received_listeners,
            routes,
            with_keys=self._sends_keys,
        )
        log.debug("extension.translated", clusters=len(clusters), took_s=round(time.perf_counter() - started_s, 4))
        return service_pb2.PostTranslateModifyResponse(
            clusters=map(_bytes, clusters),
            secrets=request.secrets,
            listeners=map(_bytes, listeners),
            routes=map(_bytes, self._extension.routes(received_listeners, routes)),
        )

    async def _backends(self, rule: RuleName | None, call: _Call) -> Sequence[RuleBackend]:
        if rule is None:
            return ()
        try:
            return await self._lookup.backends(rule)
        except LookupFailed as error:
            log.warning("extension.lookup_failed", http_route=str(rule.route), reason=str(error))
            await call.abort(grpc.StatusCode.UNAVAILABLE, f"HTTPRoute {rule.route}: {error}")


def _handler(
    method: Callable[[Any, _Call], Awaitable[Message]], request: type[Message], response: type[Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(
        method, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )


def _credentials(tls: Callable[[], ServerTls]) -> grpc.ServerCredentials:
    """Returns credentials that require a client certificate. Each handshake uses the certificates valid at that
    time."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        current = tls()
        return grpc.ssl_server_certificate_configuration([(current.key, current.certificate)], current.client_authority)

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration, require_client_authentication=True)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
