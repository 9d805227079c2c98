"""Removal of regular expressions that Envoy rejects, so that the other routes of the configuration remain."""

from collections.abc import Iterator
from typing import cast

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2
from google.protobuf.message import Message

from picker.resources.expressions import expression_problem

NEVER = r"\b\B"
"""Matches nothing: no position is both a word boundary and not one."""


def without_rejected_expressions(
    route: route_components_pb2.Route,
) -> tuple[route_components_pb2.Route, tuple[str, ...]]:
    """Returns `route` itself if Envoy accepts all its expressions; otherwise a copy that matches no request, and the
    problems.

    Envoy Gateway validates expressions with Go's engine, which accepts the empty one. Envoy rejects the whole route
    configuration for it, and a hook cannot remove a route. A route with a rejected rewrite matches nothing either:
    without the rewrite it would send requests to unintended paths."""
    problems = tuple(
        f"{matcher.regex!r}: {problem}"
        for matcher in _expressions(route)
        if (problem := expression_problem(matcher.regex))
    )
    if not problems:
        return route, ()
    result = route_components_pb2.Route()
    result.CopyFrom(route)
    for matcher in _expressions(result):
        if expression_problem(matcher.regex):
            matcher.regex = NEVER
    result.match.ClearField("path_specifier")
    result.match.safe_regex.regex = NEVER
    return result, problems


def _expressions(message: Message) -> Iterator[regex_pb2.RegexMatcher]:
    """Yields all expressions in `message` at any depth, except those inside an Any."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        messages = cast("list[Message]", value if field.is_repeated else [value])
        for inner in messages:
            if isinstance(inner, regex_pb2.RegexMatcher):
                yield inner
            else:
                yield from _expressions(inner)
