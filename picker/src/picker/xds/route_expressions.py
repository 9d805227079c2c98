"""Takes expressions that Envoy rejects out of a route, so that the other routes of its configuration stay."""

from collections.abc import Iterator
from typing import cast

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2
from google.protobuf.message import Message

from picker.resources.expressions import expression_problem

NEVER = r"\b\B"
"""Matches nothing: no place both is a boundary of words and is none."""


def without_rejected_expressions(
    route: route_components_pb2.Route,
) -> tuple[route_components_pb2.Route, tuple[str, ...]]:
    """`route` itself where Envoy takes all its expressions. Else a copy that matches no request, and what is wrong.

    Envoy Gateway checks expressions with Go's engine, which takes the empty one. Envoy rejects the whole route
    configuration for it, and a hook cannot remove a route. A route whose rewrite is rejected matches nothing either:
    without the rewrite it would send requests to paths that the user did not write."""
    problems = tuple(
        f"{each.regex!r}: {problem}" for each in _expressions(route) if (problem := expression_problem(each.regex))
    )
    if not problems:
        return route, ()
    made = route_components_pb2.Route()
    made.CopyFrom(route)
    for each in _expressions(made):
        if expression_problem(each.regex):
            each.regex = NEVER
    made.match.ClearField("path_specifier")
    made.match.safe_regex.regex = NEVER
    return made, problems


def _expressions(message: Message) -> Iterator[regex_pb2.RegexMatcher]:
    """All expressions in `message`, wherever they are, but not those inside of an Any."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        several = cast("list[Message]", value if field.is_repeated else [value])
        for each in several:
            if isinstance(each, regex_pb2.RegexMatcher):
                yield each
            else:
                yield from _expressions(each)
