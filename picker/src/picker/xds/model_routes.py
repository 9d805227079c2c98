"""Routing by the model in a request's body.

An HTTPRoute that matches on X-Gateway-Model-Name or X-Gateway-Base-Model-Name needs headers that exist only after the
body has been read. Envoy selects the route twice:

1. A request with a body to be read gets the reading route. It enables `model_filter`, which reads the body, sets the
   headers, and clears the selection. Other requests never get it.
2. The route is selected again, among the user's. The headers of the filter exclude the reading route.

Envoy creates a request's chain of filters with its first route. So the reading route enables every filter that a later
route enables. A later route that does not use one of them switches it off, where the filter has a setting for that."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence

from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import UInt64Value

from picker.protocol import MODEL_NAME
from picker.xds.clusters import INVALID_BACKEND_CLUSTER
from picker.xds.ext_proc_filter import FILTER_NAME
from picker.xds.model_filter import MODEL_FILTER, MODEL_MISSING, enabled
from picker.xds.model_list import anthropic_list, openai_list
from picker.xds.model_names import DeclaredModels, HostModels, host_models, matches_by_model
from picker.xds.pool_route import SPARE_BODY_BYTES
from picker.xds.protobuf import duration, pack_any
from picker.xds.third_party_picker import BUFFERED_FILTER_NAME

MODELS_PATH = "/v1/models"

READ_TIMEOUT_S = 600.0
"""Limit on the arrival of a body that is read. It is the picker's limit on a body of unknown length."""

DEFAULT_RESPONSE_BYTES = 4096
"""Envoy's limit on the body of a direct response. A longer body invalidates the whole configuration."""

_PREFIX = "inference-gateway/"
"""Of the names of the routes that this module adds."""

_READ_CONTENT_TYPES = r"(?i)\s*(application/json|multipart/form-data)\s*(;.*)?"

_Action = route_components_pb2.RouteAction
_Filters = MutableMapping[str, Any]
_Match = route_components_pb2.RouteMatch
_Matcher = route_components_pb2.HeaderMatcher
_Route = route_components_pb2.Route

_PICKER_FILTERS = (FILTER_NAME, BUFFERED_FILTER_NAME)
_EXT_PROC_OFF = pack_any(ext_proc_pb2.ExtProcPerRoute(disabled=True))
_OFF: Sequence[tuple[str, Any]] = (
    ("envoy.filters.http.ext_proc", _EXT_PROC_OFF),
    ("envoy.filters.http.ext_authz", pack_any(ext_authz_pb2.ExtAuthzPerRoute(disabled=True))),
    ("envoy.filters.http.lua", pack_any(lua_pb2.LuaPerRoute(disabled=True))),
    ("envoy.filters.http.buffer", pack_any(buffer_pb2.BufferPerRoute(disabled=True))),
)
"""The settings that switch a filter off for a route, by the prefix of the filter's name. Envoy Gateway appends the
policy to the name."""

_READ = (MODEL_NAME, MODEL_MISSING)
"""Headers of which a request has one once its body has been read."""

_NOT_FOUND = "The model `%REQ(X-GATEWAY-MODEL-NAME)%` does not exist or you do not have access to it."
_NO_ROUTE = (
    "No route serves this request. Routes of this host match the `model` of a JSON object or of a form, which the body "
    "does not have."
)


def routes_by_model(configuration: route_pb2.RouteConfiguration) -> bool:
    """Returns whether a route of the configuration matches on a request's model."""
    return any(matches_by_model(route) for host in configuration.virtual_hosts for route in host.routes)


def with_model_routing(
    configuration: route_pb2.RouteConfiguration, declared: DeclaredModels, max_body_bytes: int
) -> route_pb2.RouteConfiguration:
    """Returns the configuration with the routes that read models, list them, and answer requests that no route serves.
    Hosts without a route by model are unchanged. Returns the same object if there is no such host.

    `max_body_bytes`: limit on a body that is read. A larger one is answered with 413."""
    if not routes_by_model(configuration):
        return configuration
    result = route_pb2.RouteConfiguration()
    result.CopyFrom(configuration)
    longest = 0
    for host in result.virtual_hosts:
        own = [route for route in host.routes if not route.name.startswith(_PREFIX)]
        if any(map(matches_by_model, own)):
            made = _host_routes(own, host_models(own, declared), max_body_bytes)
            longest = max([longest, *(len(route.direct_response.body.inline_string.encode()) for route in made)])
            del host.routes[:]
            host.routes.extend(made)
            if MODEL_MISSING not in host.request_headers_to_remove:
                host.request_headers_to_remove.append(MODEL_MISSING)
    limit = result.max_direct_response_body_size_bytes
    if longest > max(limit.value, DEFAULT_RESPONSE_BYTES):
        limit.value = longest
    return result


def _host_routes(own: Sequence[_Route], models: HostModels, max_body_bytes: int) -> list[_Route]:
    first = next(index for index, route in enumerate(own) if matches_by_model(route))
    # Routes before the first one by model are selected whatever the body says.
    decided, by_body = own[:first], own[first:]
    filters = _filters_of(by_body)
    for route in by_body:
        _switch_off_others(route, filters)
    # The added routes have no picker. The other filters do for them what they do for the first route by model.
    added = {name: _EXT_PROC_OFF if name in _PICKER_FILTERS else settings for name, settings in filters.items()}
    largest = max((route.request_body_buffer_limit.value for route in by_body), default=0)
    made = [
        *decided,
        _reading_route(models, added, max(largest, max_body_bytes + SPARE_BODY_BYTES)),
        *by_body,
        *_unserved_routes(added),
    ]
    at = 1 + max((index for index, route in enumerate(made) if _is_for_models_path(route)), default=-1)
    return [*made[:at], *_list_routes(models, added), *made[at:]]


def _filters_of(routes: Iterable[_Route]) -> dict[str, Any]:
    """Returns the settings of the filters that any of the routes enables; of several for one filter, the first."""
    filters: dict[str, Any] = {}
    for route in routes:
        for settings in _settings_of(route):
            for name in sorted(settings):
                if not _disables(settings[name]):
                    filters.setdefault(name, settings[name])
    return filters


def _settings_of(route: _Route) -> Iterator[_Filters]:
    """Yields the settings of filters of a route, and those of its weighted clusters."""
    yield route.typed_per_filter_config
    for cluster in route.route.weighted_clusters.clusters:
        yield cluster.typed_per_filter_config


def _disables(settings: Any) -> bool:
    generic = route_components_pb2.FilterConfig
    return settings.Is(generic.DESCRIPTOR) and generic.FromString(settings.value).disabled


def _switch_off_others(route: _Route, filters: Iterable[str]) -> None:
    """Switches off the filters that the chain has because of other routes."""
    for name in filters:
        off = _off(name)
        own = route.typed_per_filter_config
        if off is None or (name in own and not _disables(own[name])):
            continue
        weighted = route.route.weighted_clusters.clusters
        # A setting of the route would also apply to the clusters that have their own.
        others = [cluster.typed_per_filter_config for cluster in weighted] if weighted else [own]
        for settings in others:
            if name not in settings or _disables(settings[name]):
                settings[name].CopyFrom(off)


def _off(name: str) -> Any | None:
    return next((off for prefix, off in _OFF if name.startswith(prefix)), None)


def _reading_route(models: HostModels, filters: Mapping[str, Any], max_body_bytes: int) -> _Route:
    """Returns the first route of a request whose body is to be read. It leads nowhere: 404 if the filter fails."""
    match = _Match(
        prefix="/",
        headers=[
            # Envoy checks them in order. First those that fail when the route is selected again. "upgrade": the body of
            # an upgraded connection does not end.
            *(_Matcher(name=name, present_match=True, invert_match=True) for name in (*_READ, "upgrade")),
            _Matcher(
                name="content-type",
                string_match=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=_READ_CONTENT_TYPES)),
            ),
        ],
    )
    route = _Route(
        name=f"{_PREFIX}read-model",
        match=match,
        route=_Action(
            cluster=INVALID_BACKEND_CLUSTER,
            cluster_not_found_response_code=_Action.NOT_FOUND,
            max_stream_duration=_Action.MaxStreamDuration(max_stream_duration=duration(READ_TIMEOUT_S)),
        ),
        request_body_buffer_limit=UInt64Value(value=max_body_bytes),
    )
    _set_filters(route, {**filters, MODEL_FILTER: enabled(models.bases)})
    return route


def _list_routes(models: HostModels, filters: Mapping[str, Any]) -> Iterator[_Route]:
    """Yields the routes of the list of models."""
    get = _Matcher(name=":method", string_match=string_pb2.StringMatcher(exact="GET"))
    anthropic = _Matcher(name="anthropic-version", present_match=True)
    for name, headers, body in (
        ("anthropic-models", [get, anthropic], anthropic_list(models)),
        ("models", [get], openai_list(models)),
    ):
        route = _Route(name=f"{_PREFIX}{name}", match=_Match(path=MODELS_PATH, headers=headers))
        route.direct_response.status = 200
        route.direct_response.body.inline_string = body
        content_type = base_pb2.HeaderValue(key="content-type", value="application/json")
        overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        route.response_headers_to_add.add(header=content_type, append_action=overwrite)
        _set_filters(route, filters)
        yield route


def _unserved_routes(filters: Mapping[str, Any]) -> Iterator[_Route]:
    """Yields the routes of requests whose body was read and that no other route serves."""
    for name, header, error in (
        (
            "model-not-found",
            MODEL_NAME,
            {"message": _NOT_FOUND, "type": "invalid_request_error", "param": "model", "code": "model_not_found"},
        ),
        (
            "no-route",
            MODEL_MISSING,
            {"message": _NO_ROUTE, "type": "invalid_request_error", "param": "model", "code": "route_not_found"},
        ),
    ):
        read = _Matcher(name=header, present_match=True)
        route = _Route(name=f"{_PREFIX}{name}", match=_Match(prefix="/", headers=[read]))
        route.direct_response.status = 404
        # Envoy escapes the values in a JSON format, so that a client's name cannot end its string.
        json_format = substitution_format_string_pb2.SubstitutionFormatString()
        json_format.json_format.update({"error": error})
        route.direct_response.body_format.CopyFrom(json_format)
        _set_filters(route, filters)
        yield route


def _set_filters(route: _Route, filters: Mapping[str, Any]) -> None:
    for name, settings in filters.items():
        route.typed_per_filter_config[name].CopyFrom(settings)


def _is_for_models_path(route: _Route) -> bool:
    """Returns whether a user's route is for the list of models, and not only for a part of the paths around it."""
    match = route.match
    return MODELS_PATH in (match.path, match.path_separated_prefix, match.prefix)
