"""GatewayClass, Gateway and HTTPRoute (gateway.networking.k8s.io), as far as the gateway on one machine serves them.

Defaults are those of the API (https://gateway-api.sigs.k8s.io/reference/spec/). A field of the API that is not served
is told in a warning; a value that would send traffic elsewhere than the object says (a protocol, a filter, a kind of
backend that is not served) is refused.
"""

from typing import ClassVar, Literal

from pydantic import Field

from picker.resources.names import ObjectName
from picker.resources.wire import DnsName, Object, Port, Seconds, Wire

GROUP = "gateway.networking.k8s.io"


class GatewayClassSpec(Wire):
    not_served: ClassVar = frozenset({"parametersRef"})

    controller_name: str
    description: str = ""


class GatewayClass(Object):
    kind: Literal["GatewayClass"]
    spec: GatewayClassSpec


class RouteNamespaces(Wire):
    from_: Literal["All", "Same"] = Field("Same", validation_alias="from")


class AllowedRoutes(Wire):
    not_served: ClassVar = frozenset({"kinds"})

    namespaces: RouteNamespaces = RouteNamespaces(from_="Same")


class Listener(Wire):
    not_served: ClassVar = frozenset({"tls"})

    name: str
    port: Port
    protocol: Literal["HTTP"]
    hostname: str | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(Wire):
    not_served: ClassVar = frozenset({"addresses", "allowedListeners", "backendTLS", "infrastructure", "tls"})

    gateway_class_name: str
    listeners: tuple[Listener, ...] = Field(min_length=1, max_length=64)


class Gateway(Object):
    kind: Literal["Gateway"]
    spec: GatewaySpec


class ParentRef(Wire):
    group: str = GROUP
    kind: Literal["Gateway"] = "Gateway"
    namespace: DnsName | None = None
    name: DnsName
    section_name: str | None = None
    port: Port | None = None


class PathMatch(Wire):
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = "/"


class NamedMatch(Wire):
    """A header or a query parameter."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: str
    value: str


class RouteMatch(Wire):
    path: PathMatch = PathMatch()
    headers: tuple[NamedMatch, ...] = ()
    query_params: tuple[NamedMatch, ...] = ()
    method: str | None = None


class BackendRef(Wire):
    not_served: ClassVar = frozenset({"filters"})

    group: str = ""
    kind: Literal["Service", "InferencePool"] = "Service"
    namespace: DnsName | None = None
    name: DnsName
    port: Port | None = None
    weight: int = Field(1, ge=0, le=1_000_000)


class HeaderValue(Wire):
    name: str
    value: str


class HeaderChanges(Wire):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class RouteFilter(Wire):
    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier"]
    request_header_modifier: HeaderChanges = HeaderChanges()
    response_header_modifier: HeaderChanges = HeaderChanges()


class RouteTimeouts(Wire):
    request: Seconds | None = None
    backend_request: Seconds | None = None


class RouteRule(Wire):
    not_served: ClassVar = frozenset({"retry", "sessionPersistence"})

    name: str | None = None
    matches: tuple[RouteMatch, ...] = (RouteMatch(),)
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: RouteTimeouts = RouteTimeouts()


class HTTPRouteSpec(Wire):
    not_served: ClassVar = frozenset({"useDefaultGateways"})

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)


class HTTPRoute(Object):
    kind: Literal["HTTPRoute"]
    spec: HTTPRouteSpec

    def parent(self, ref: ParentRef) -> ObjectName:
        """The Gateway that a parent reference of this route means."""
        return ObjectName(ref.namespace or self.metadata.namespace, ref.name)
