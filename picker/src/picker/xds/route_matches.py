"""The matches of an HTTPRoute as Envoy's, and which one wins when several fit a request."""

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from picker.resources.gateway_api import NamedMatch, RouteMatch
from picker.resources.wire import Object

Precedence = tuple[int, int, bool, int, int]
"""Sorts matches, the one that wins first."""

_PATH_RANKS = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
"""The Gateway API leaves open where regular expressions stand; Envoy Gateway puts them here."""


def precedence(match: RouteMatch) -> Precedence:
    """The Gateway API's order: the kind of path, the longer path, a method, more headers, more query parameters.

    Equals go by the age of their routes, then their names, then their order in the route."""
    return (
        _PATH_RANKS[match.path.type],
        -len(match.path.value),
        match.method is None,
        -len(match.headers),
        -len(match.query_params),
    )


def age_rank(written: Object) -> float:
    """Sorts objects, the oldest first; one that does not tell when it was made counts as older than all."""
    created = written.metadata.creation_timestamp
    return created.timestamp() if created is not None else 0.0


def envoy_match(match: RouteMatch) -> route_components_pb2.RouteMatch:
    made = route_components_pb2.RouteMatch(
        headers=[
            route_components_pb2.HeaderMatcher(name=each.name.lower(), string_match=_string(each))
            for each in match.headers
        ],
        query_parameters=[
            route_components_pb2.QueryParameterMatcher(name=each.name, string_match=_string(each))
            for each in match.query_params
        ],
    )
    if match.method is not None:
        method = string_pb2.StringMatcher(exact=match.method)
        made.headers.insert(0, route_components_pb2.HeaderMatcher(name=":method", string_match=method))
    _set_path(made, match)
    return made


def _set_path(made: route_components_pb2.RouteMatch, match: RouteMatch) -> None:
    path = match.path.value
    if match.path.type == "Exact":
        made.path = path
    elif match.path.type == "RegularExpression":
        made.safe_regex.regex = path
    elif prefix := path.rstrip("/"):
        # Whole elements: /v1 is a prefix of /v1/models and not of /v10.
        made.path_separated_prefix = prefix
    else:
        made.prefix = "/"


def _string(match: NamedMatch) -> string_pb2.StringMatcher:
    if match.type == "Exact":
        return string_pb2.StringMatcher(exact=match.value)
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=match.value))
