"""Changes of headers as users write them, made part of what Envoy does with a route or with a share of it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2

_Option = base_pb2.HeaderValueOption
_SET, _ADD = _Option.OVERWRITE_IF_EXISTS_OR_ADD, _Option.APPEND_IF_EXISTS_OR_ADD

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]{0,4096}")


class HeaderValue(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...


class HeaderChanges(Protocol):
    """A HTTPHeaderFilter of the Gateway API."""

    @property
    def set(self) -> Sequence[HeaderValue]: ...
    @property
    def add(self) -> Sequence[HeaderValue]: ...
    @property
    def remove(self) -> Sequence[str]: ...


def change_request(
    made: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight, changes: HeaderChanges
) -> None:
    """What Envoy rejects of `changes` is left out: it would reject the whole route configuration."""
    made.request_headers_to_add.extend(_options(changes))
    made.request_headers_to_remove.extend(filter(may_change, changes.remove))


def change_response(
    made: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight, changes: HeaderChanges
) -> None:
    """The same for answers."""
    made.response_headers_to_add.extend(_options(changes))
    made.response_headers_to_remove.extend(filter(may_change, changes.remove))


def rejected(changes: HeaderChanges) -> Iterator[str]:
    """The names of the headers whose changes Envoy does not take."""
    yield from (each.name for each in (*changes.set, *changes.add) if not _is_taken(each))
    yield from (name for name in changes.remove if not may_change(name))


def may_change(name: str) -> bool:
    """Envoy changes neither Host nor what is no header name."""
    return bool(_NAME.fullmatch(name)) and name.lower() != "host"


def _is_taken(header: HeaderValue) -> bool:
    return may_change(header.name) and bool(_VALUE.fullmatch(header.value))


def _options(changes: HeaderChanges) -> Iterable[base_pb2.HeaderValueOption]:
    for values, action in ((changes.set, _SET), (changes.add, _ADD)):
        for each in filter(_is_taken, values):
            # Envoy reads %...% in a value as a variable of its own.
            value = each.value.replace("%", "%%")
            yield _Option(header=base_pb2.HeaderValue(key=each.name, value=value), append_action=action)
