"""The objects that a controller reads, as far as it reads them. Unlike the wire types of `resources` they refuse
nothing: an HTTPRoute that uses all of the Gateway API is none of our business beyond these fields."""

from collections.abc import Iterator, Mapping

import msgspec

from picker.resources.gateway_api import GROUP
from picker.resources.names import ObjectName, PoolName
from picker.sources.kubernetes_watch import Json, resource

HTTP_ROUTE = resource(GROUP, "v1", "HTTPRoute")
GATEWAY = resource(GROUP, "v1", "Gateway")
SERVICE = resource("", "v1", "Service")
ENDPOINT_SLICE = resource("discovery.k8s.io", "v1", "EndpointSlice")
SERVICE_OF_SLICE = "kubernetes.io/service-name"
"""Label of an EndpointSlice that names its Service."""


class Metadata(msgspec.Struct, frozen=True):
    name: str
    namespace: str = ""
    generation: int = 0


class Condition(msgspec.Struct, frozen=True):
    type: str
    status: str


class ParentRef(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    group: str = GROUP
    kind: str = "Gateway"
    namespace: str | None = None


class RouteParent(msgspec.Struct, frozen=True, rename="camel"):
    """What a controller made of one parent reference."""

    parent_ref: ParentRef
    controller_name: str
    conditions: tuple[Condition, ...] = ()


class RouteStatus(msgspec.Struct, frozen=True):
    parents: tuple[RouteParent, ...] = ()


class BackendRef(msgspec.Struct, frozen=True):
    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str | None = None
    weight: int = 1

    def pool(self, namespace: str) -> PoolName | None:
        """The pool that it means, in an HTTPRoute of `namespace`; None where it means something else."""
        if self.kind != "InferencePool":
            return None
        return PoolName(self.group, self.namespace or namespace, self.name)


class RouteRule(msgspec.Struct, frozen=True, rename="camel"):
    backend_refs: tuple[BackendRef, ...] = ()


class RouteSpec(msgspec.Struct, frozen=True, rename="camel"):
    parent_refs: tuple[ParentRef, ...] = ()
    rules: tuple[RouteRule, ...] = ()


class HTTPRoute(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: RouteSpec
    status: RouteStatus = RouteStatus()

    def pools(self) -> Iterator[PoolName]:
        for rule in self.spec.rules:
            for backend in rule.backend_refs:
                if (pool := backend.pool(self.metadata.namespace)) is not None:
                    yield pool

    def gateway(self, parent: ParentRef) -> ObjectName:
        return ObjectName(parent.namespace or self.metadata.namespace, parent.name)


class ServicePort(msgspec.Struct, frozen=True, rename="camel"):
    port: int
    name: str = ""
    app_protocol: str | None = None


class ServiceSpec(msgspec.Struct, frozen=True):
    type: str = "ClusterIP"
    ports: tuple[ServicePort, ...] = ()


class ServiceMetadata(msgspec.Struct, frozen=True):
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class Service(msgspec.Struct, frozen=True):
    spec: ServiceSpec
    metadata: ServiceMetadata = ServiceMetadata()


class SlicePort(msgspec.Struct, frozen=True):
    port: int | None = None
    name: str | None = None


class SliceConditions(msgspec.Struct, frozen=True):
    ready: bool | None = None


class SliceEndpoint(msgspec.Struct, frozen=True):
    addresses: tuple[str, ...]
    conditions: SliceConditions = SliceConditions()

    @property
    def is_ready(self) -> bool:
        """Unknown counts as ready, as the API says."""
        return self.conditions.ready is not False


class EndpointSlice(msgspec.Struct, frozen=True):
    """Some of the endpoints of a Service."""

    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


def read_route(object_: Json, _before: HTTPRoute | None = None) -> HTTPRoute:
    return msgspec.convert(object_, HTTPRoute)


def read_pool_route(object_: Json, _before: HTTPRoute | None = None) -> HTTPRoute | None:
    """The route if it leads to a pool."""
    route = read_route(object_)
    return route if any(True for _ in route.pools()) else None


def read_service(object_: Json, _before: Service | None = None) -> Service:
    return msgspec.convert(object_, Service)


def read_slice(object_: Json, _before: EndpointSlice | None = None) -> EndpointSlice:
    return msgspec.convert(object_, EndpointSlice)
