"""GatewayClass, Gateway and HTTPRoute (gateway.networking.k8s.io), as far as the gateway on one machine serves them.

Defaults are those of the API (https://gateway-api.sigs.k8s.io/reference/spec/). A field of the API without effect here
causes a warning. A value that would send traffic elsewhere than the object says is rejected: an unsupported protocol,
filter or kind of backend.
"""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from picker.bounded_text import shorten
from picker.resources.expressions import expression_problem
from picker.resources.names import ObjectName
from picker.resources.wire import DnsName, Object, Port, Seconds, Wire

GROUP = "gateway.networking.k8s.io"


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_HOSTNAME = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("allowed are letters, digits and !#$%&'*+-.^_`|~")
    return value


def _hostname(value: str) -> str:
    if len(value) > 253 or not _HOSTNAME.fullmatch(value):
        raise ValueError("allowed are host names in lower case, without a port, of which the first label may be '*'")
    return value


def _unsupported(*values: str) -> BeforeValidator:
    """Rejects `values`, which are valid in the API, with a message that they are not supported here."""

    def reject(value: object) -> object:
        if value in values:
            raise ValueError("the gateway on one machine does not serve it")
        return value

    return BeforeValidator(reject)


HeaderName = Annotated[str, AfterValidator(_header_name)]
Hostname = Annotated[str, AfterValidator(_hostname)]


class GatewayClassSpec(Wire):
    unsupported_fields: ClassVar = frozenset({"parametersRef"})

    controller_name: str
    description: str = ""


class GatewayClass(Object):
    kind: Literal["GatewayClass"]
    spec: GatewayClassSpec


class RouteNamespaces(Wire):
    unsupported_fields: ClassVar = frozenset({"selector"})

    from_: Annotated[Literal["All", "Same"], _unsupported("Selector", "None")] = Field("Same", validation_alias="from")


class AllowedRoutes(Wire):
    unsupported_fields: ClassVar = frozenset({"kinds"})

    namespaces: RouteNamespaces = RouteNamespaces(from_="Same")


class Listener(Wire):
    unsupported_fields: ClassVar = frozenset({"tls"})

    name: str
    port: Port
    protocol: Annotated[Literal["HTTP"], _unsupported("HTTPS", "TLS", "TCP", "UDP")]
    hostname: Hostname | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(Wire):
    unsupported_fields: ClassVar = frozenset({"addresses", "allowedListeners", "backendTLS", "infrastructure", "tls"})

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


def _check_expression(value: str) -> None:
    """Raises ValueError for an expression because of which Envoy would reject the whole route configuration."""
    if problem := expression_problem(value):
        raise ValueError(f"value: found {shorten(value)!r}; allowed is a regular expression of RE2, but {problem}")


class PathMatch(Wire):
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = Field(default="/", max_length=1024)

    @model_validator(mode="after")
    def _is_a_path(self) -> Self:
        if self.type == "RegularExpression":
            _check_expression(self.value)
        elif not self.value.startswith("/"):
            raise ValueError(f"value: found {self.value!r}; allowed are paths, which begin with '/'")
        elif "?" in self.value or "#" in self.value:
            raise ValueError(
                f"value: found {self.value!r}; allowed are paths alone; queryParams match what follows a '?'"
            )
        return self


class NamedMatch(Wire):
    """A match of a header or a query parameter."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: str = Field(min_length=1, max_length=4096)

    @model_validator(mode="after")
    def _is_an_expression(self) -> Self:
        if self.type == "RegularExpression":
            _check_expression(self.value)
        return self


class RouteMatch(Wire):
    path: PathMatch = PathMatch()
    headers: tuple[NamedMatch, ...] = ()
    query_params: tuple[NamedMatch, ...] = ()
    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] | None = None


class BackendRef(Wire):
    unsupported_fields: ClassVar = frozenset({"filters"})

    group: str = ""
    kind: Literal["Service", "InferencePool"] = "Service"
    namespace: DnsName | None = None
    name: DnsName
    port: Port | None = None
    weight: int = Field(1, ge=0, le=1_000_000)


def _not_host(name: str) -> str:
    if name.lower() == "host":
        raise ValueError("allowed are headers other than Host, by which requests are routed")
    return name


ChangedHeader = Annotated[HeaderName, AfterValidator(_not_host)]


class HeaderValue(Wire):
    name: ChangedHeader
    value: str = Field(max_length=4096, pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")


class HeaderChanges(Wire):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[ChangedHeader, ...] = ()


class RouteFilter(Wire):
    not_read: ClassVar = frozenset(
        {"cors", "extensionRef", "externalAuth", "requestMirror", "requestRedirect", "urlRewrite"}
    )
    """Fields of filter types that are rejected."""

    type: Annotated[
        Literal["RequestHeaderModifier", "ResponseHeaderModifier"],
        _unsupported("CORS", "ExtensionRef", "ExternalAuth", "RequestMirror", "RequestRedirect", "URLRewrite"),
    ]
    request_header_modifier: HeaderChanges = HeaderChanges()
    response_header_modifier: HeaderChanges = HeaderChanges()


class RouteTimeouts(Wire):
    request: Seconds | None = None
    backend_request: Seconds | None = None


class RouteRule(Wire):
    unsupported_fields: ClassVar = frozenset({"retry", "sessionPersistence"})

    name: str | None = None
    matches: tuple[RouteMatch, ...] = (RouteMatch(),)
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = Field(default=(), max_length=16)
    timeouts: RouteTimeouts = RouteTimeouts()


class HTTPRouteSpec(Wire):
    unsupported_fields: ClassVar = frozenset({"useDefaultGateways"})

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[Hostname, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)


class HTTPRoute(Object):
    kind: Literal["HTTPRoute"]
    spec: HTTPRouteSpec

    def parent(self, ref: ParentRef) -> ObjectName:
        """The Gateway that a parent reference of this route names."""
        return ObjectName(ref.namespace or self.metadata.namespace, ref.name)
