"""Objects of the Kubernetes API that the controller reads, with only the fields that it reads.

They are not the wire types of `resources`, which have the same names. Those validate what users write for one machine:
they reject unknown fields and every value that the gateway does not serve, with file and line. These read objects that
the API server has validated and that other controllers may serve. A TLS listener, a RequestMirror filter or a status is
valid here, and must not make a route of a pool unreadable. Types for writing statuses are in `resources.status_wire`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from picker.protocol import BASE_MODEL_NAME, MODEL_NAME
from picker.resources.gateway_api import GROUP
from picker.resources.names import ObjectName, PoolName
from picker.sources.informer import Json, resource

HTTP_ROUTE = resource(GROUP, "v1", "HTTPRoute")
GATEWAY = resource(GROUP, "v1", "Gateway")
GRPC_ROUTE = resource(GROUP, "v1", "GRPCRoute")
SERVICE = resource("", "v1", "Service")
ENDPOINT_SLICE = resource("discovery.k8s.io", "v1", "EndpointSlice")
EXPRESSION = "RegularExpression"
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


class BackendObject(msgspec.Struct, frozen=True):
    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str | None = None

    def pool(self, namespace: str) -> PoolName | None:
        """The pool that it means, in an HTTPRoute of `namespace`; None where it means something else."""
        if self.kind != "InferencePool":
            return None
        return PoolName(self.group, self.namespace or namespace, self.name)


class RequestMirror(msgspec.Struct, frozen=True, rename="camel"):
    backend_ref: BackendObject


class HeaderValue(msgspec.Struct, frozen=True):
    name: str
    value: str


class HeaderChanges(msgspec.Struct, frozen=True):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class RouteFilter(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    request_header_modifier: HeaderChanges | None = None
    response_header_modifier: HeaderChanges | None = None
    request_mirror: RequestMirror | None = None


class BackendRef(BackendObject, frozen=True):
    weight: int = 1
    filters: tuple[RouteFilter, ...] = ()

    @property
    def request_changes(self) -> tuple[HeaderChanges, ...]:
        found = (each.request_header_modifier for each in self.filters)
        return tuple(each for each in found if each is not None)

    @property
    def response_changes(self) -> tuple[HeaderChanges, ...]:
        found = (each.response_header_modifier for each in self.filters)
        return tuple(each for each in found if each is not None)


class PathMatch(msgspec.Struct, frozen=True):
    type: str = "PathPrefix"
    value: str = "/"


class NamedMatch(msgspec.Struct, frozen=True):
    """A header or a query parameter."""

    value: str
    name: str = ""
    type: str = "Exact"


class RouteMatch(msgspec.Struct, frozen=True, rename="camel"):
    path: PathMatch = PathMatch()
    headers: tuple[NamedMatch, ...] = ()
    query_params: tuple[NamedMatch, ...] = ()

    def expressions(self) -> Iterator[str]:
        """The regular expressions."""
        return (each.value for each in (self.path, *self.headers, *self.query_params) if each.type == EXPRESSION)


class RouteRule(msgspec.Struct, frozen=True, rename="camel"):
    backend_refs: tuple[BackendRef, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    matches: tuple[RouteMatch, ...] = ()

    def mirrors(self) -> Iterator[BackendObject]:
        """What requests are mirrored to, besides the backends."""
        of_backends = (each for backend in self.backend_refs for each in backend.filters)
        filters = (*self.filters, *of_backends)
        return (each.request_mirror.backend_ref for each in filters if each.request_mirror is not None)


class RouteSpec(msgspec.Struct, frozen=True, rename="camel"):
    parent_refs: tuple[ParentRef, ...] = ()
    rules: tuple[RouteRule, ...] = ()


class HTTPRoute(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: RouteSpec
    status: RouteStatus = RouteStatus()
    is_grpc: bool = False
    """Whether it is a GRPCRoute, which has the same form as far as it is read here."""

    @property
    def title(self) -> str:
        return f"{'GRPCRoute' if self.is_grpc else 'HTTPRoute'} {self.metadata.namespace}/{self.metadata.name}"

    def pools(self) -> Iterator[PoolName]:
        """Those that it leads to, and those that it mirrors requests to."""
        for rule in self.spec.rules:
            for backend in (*rule.backend_refs, *rule.mirrors()):
                if (pool := backend.pool(self.metadata.namespace)) is not None:
                    yield pool

    @property
    def matches_by_model(self) -> bool:
        """Whether a rule matches on the requested model or on its base model."""
        headers = (header for rule in self.spec.rules for match in rule.matches for header in match.headers)
        return any(header.name.lower() in (MODEL_NAME, BASE_MODEL_NAME) for header in headers)

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


def read_grpc_route(object_: Json, _before: HTTPRoute | None = None) -> HTTPRoute | None:
    """The GRPCRoute if it leads to a pool. Its matches are others than an HTTPRoute's and are not read."""
    spec = cast(Json, object_["spec"])
    rules: list[Json] = [{**rule, "matches": []} for rule in cast(Sequence[Json], spec.get("rules") or ())]
    route = read_pool_route({**object_, "spec": {**spec, "rules": rules}})
    return msgspec.structs.replace(route, is_grpc=True) if route is not None else None


def read_service(object_: Json, _before: Service | None = None) -> Service:
    return msgspec.convert(object_, Service)


def read_slice(object_: Json, _before: EndpointSlice | None = None) -> EndpointSlice:
    return msgspec.convert(object_, EndpointSlice)
