"""Header modifications of the Gateway API, applied to a route of Envoy or to a weighted cluster of one."""

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
    """An HTTPHeaderFilter of the Gateway API."""

    @property
    def set(self) -> Sequence[HeaderValue]: ...
    @property
    def add(self) -> Sequence[HeaderValue]: ...
    @property
    def remove(self) -> Sequence[str]: ...


def change_request(
    made: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight, changes: HeaderChanges
) -> None:
    """Applies `changes` to the request headers. Changes that Envoy rejects are left out, because it would reject the
    whole route configuration."""
    made.request_headers_to_add.extend(_options(changes))
    made.request_headers_to_remove.extend(filter(may_change, changes.remove))


def change_response(
    made: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight, changes: HeaderChanges
) -> None:
    """Applies `changes` to the response headers, likewise."""
    made.response_headers_to_add.extend(_options(changes))
    made.response_headers_to_remove.extend(filter(may_change, changes.remove))


def rejected_headers(changes: HeaderChanges) -> Iterator[str]:
    """Returns the names of the headers whose changes Envoy rejects."""
    yield from (header.name for header in (*changes.set, *changes.add) if not _is_valid(header))
    yield from (name for name in changes.remove if not may_change(name))


def may_change(name: str) -> bool:
    """Returns whether Envoy allows changes of the header: not of Host, and not of invalid names."""
    return bool(_NAME.fullmatch(name)) and name.lower() != "host"


def _is_valid(header: HeaderValue) -> bool:
    return may_change(header.name) and bool(_VALUE.fullmatch(header.value))


def _options(changes: HeaderChanges) -> Iterable[base_pb2.HeaderValueOption]:
    for values, action in ((changes.set, _SET), (changes.add, _ADD)):
        for header in filter(_is_valid, values):
            # Envoy expands %...% in a value as a command operator.
            value = header.value.replace("%", "%%")
            yield _Option(header=base_pb2.HeaderValue(key=header.name, value=value), append_action=action)
