"""The matches of an HTTPRoute as Envoy's, and their precedence."""

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from picker.resources.gateway_api import NamedMatch, RouteMatch
from picker.resources.wire import Object

Precedence = tuple[int, int, bool, int, int]
"""A sort key of matches; the lowest wins."""

_PATH_RANKS = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
"""Rank by type of path. The Gateway API leaves the rank of regular expressions open; this is Envoy Gateway's."""


def precedence(match: RouteMatch) -> Precedence:
    """Returns the precedence of the Gateway API: the type of path, the longer path, a method, more headers, more query
    parameters.

    Equal matches are ordered by the age of their routes, then their names, then their order in the route."""
    return (
        _PATH_RANKS[match.path.type],
        -len(match.path.value),
        match.method is None,
        -len(match.headers),
        -len(match.query_params),
    )


def age_rank(resource: Object) -> float:
    """Returns a sort key for objects, the oldest first. One without a creation time counts as the oldest."""
    created = resource.metadata.creation_timestamp
    return created.timestamp() if created is not None else 0.0


def envoy_match(match: RouteMatch) -> route_components_pb2.RouteMatch:
    result = route_components_pb2.RouteMatch(
        headers=[
            route_components_pb2.HeaderMatcher(name=condition.name.lower(), string_match=_string(condition))
            for condition in match.headers
        ],
        query_parameters=[
            route_components_pb2.QueryParameterMatcher(name=condition.name, string_match=_string(condition))
            for condition in match.query_params
        ],
    )
    if match.method is not None:
        method = string_pb2.StringMatcher(exact=match.method)
        result.headers.insert(0, route_components_pb2.HeaderMatcher(name=":method", string_match=method))
    _set_path(result, match)
    return result


def _set_path(result: route_components_pb2.RouteMatch, match: RouteMatch) -> None:
    path = match.path.value
    if match.path.type == "Exact":
        result.path = path
    elif match.path.type == "RegularExpression":
        result.safe_regex.regex = path
    elif prefix := path.rstrip("/"):
        # Whole path elements: /v1 is a prefix of /v1/models and not of /v10.
        result.path_separated_prefix = prefix
    else:
        result.prefix = "/"


def _string(match: NamedMatch) -> string_pb2.StringMatcher:
    if match.type == "Exact":
        return string_pb2.StringMatcher(exact=match.value)
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=match.value))
