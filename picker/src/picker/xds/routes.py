"""The rules of an HTTPRoute as Envoy's routes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2

from picker.resources.envoy_gateway import PolicyTimeout
from picker.resources.gateway_api import BackendRef, HTTPRoute, RouteFilter, RouteMatch, RouteRule
from picker.resources.names import ObjectName, PoolName
from picker.resources.objects import Resources
from picker.xds.clusters import pool_cluster_name, service_cluster_name
from picker.xds.header_changes import change_request, change_response
from picker.xds.pool_route import next_endpoint_policy, with_ext_proc
from picker.xds.protobuf import duration, uint32
from picker.xds.route_matches import Precedence, age_rank, envoy_match, precedence

INVALID_BACKEND_CLUSTER = "invalid-backend-cluster"
"""A cluster that does not exist: Envoy answers its share of the requests with 500."""

_Action = route_components_pb2.RouteAction
_Append = base_pb2.HeaderValueOption

Rank = tuple[Precedence, float, str, int, int]


@dataclass(frozen=True, slots=True)
class Backend:
    """What a backend reference means."""

    cluster: str
    weight: int
    pool: PoolName | None = None
    service: tuple[ObjectName, int] | None = None


@dataclass(frozen=True, slots=True)
class RankedRoute:
    """A route and where it stands among those of its virtual host, the lowest first."""

    rank: Rank
    route: route_components_pb2.Route
    backends: tuple[Backend, ...]


def backend(ref: BackendRef, namespace: str, resources: Resources) -> Backend:
    """Of a reference in an object of `namespace`; one that refers to nothing gets INVALID_BACKEND_CLUSTER. The port in
    a reference to a pool means nothing."""
    namespace = ref.namespace or namespace
    if ref.kind == "InferencePool":
        pool = PoolName(ref.group, namespace, ref.name)
        if pool in resources.pools:
            return Backend(pool_cluster_name(pool), ref.weight, pool=pool)
    elif ref.port is not None:
        name = ObjectName(namespace, ref.name)
        service = next((each for each in resources.services if each.name == name), None)
        if service is not None and any(port.port == ref.port for port in service.spec.ports):
            return Backend(service_cluster_name(name, ref.port), ref.weight, service=(name, ref.port))
    return Backend(INVALID_BACKEND_CLUSTER, ref.weight)


def routes(
    http_route: HTTPRoute, resources: Resources, policy: PolicyTimeout, picker_cluster: str, max_body_bytes: int
) -> list[RankedRoute]:
    """A route for each match of each rule."""
    made: list[RankedRoute] = []
    for rule_index, rule in enumerate(http_route.spec.rules):
        backends = tuple(backend(ref, http_route.metadata.namespace, resources) for ref in rule.backend_refs)
        # A rule with an empty list of matches matches everything, as one without the list.
        for match_index, match in enumerate(rule.matches or (RouteMatch(),)):
            name = f"httproute/{http_route.name}/rule/{rule_index}/match/{match_index}"
            route = route_components_pb2.Route(name=name, match=envoy_match(match))
            _change_headers(route, rule.filters)
            _set_backends(route, http_route, rule, backends)
            if route.HasField("route"):
                _limit_time(route.route, rule, policy, backends)
            pools = {each.cluster: each.pool for each in backends if each.pool is not None}
            rank: Rank = (precedence(match), age_rank(http_route), str(http_route.name), rule_index, match_index)
            made.append(RankedRoute(rank, with_ext_proc(route, pools, picker_cluster, max_body_bytes), backends))
    return made


def _set_backends(
    route: route_components_pb2.Route, http_route: HTTPRoute, rule: RouteRule, backends: Sequence[Backend]
) -> None:
    """One cluster, weighted ones, or the answer that there is none: 500, as the Gateway API wants it."""
    weighed = [each for each in backends if each.weight > 0]
    if all(each.cluster == INVALID_BACKEND_CLUSTER for each in weighed):
        wanted = [
            f"{ref.kind} {ref.namespace or http_route.metadata.namespace}/{ref.name}" for ref in rule.backend_refs
        ]
        route.direct_response.status = 500
        route.direct_response.body.inline_string = _no_backend(http_route, wanted)
        header = base_pb2.HeaderValue(key="content-type", value="application/json")
        route.response_headers_to_add.append(_Append(header=header, append_action=_Append.OVERWRITE_IF_EXISTS_OR_ADD))
        return
    route.route.cluster_not_found_response_code = _Action.INTERNAL_SERVER_ERROR
    if len(weighed) == 1:
        route.route.cluster = weighed[0].cluster
        return
    for each in weighed:
        route.route.weighted_clusters.clusters.add(name=each.cluster, weight=uint32(each.weight))


def _no_backend(http_route: HTTPRoute, wanted: Iterable[str]) -> str:
    named = ", ".join(wanted) or "none is named"
    message = f"HTTPRoute {http_route.name} leads to no backend that exists ({named})."
    error = {"message": message, "type": "server_error", "param": None, "code": "backend-not-found"}
    return json.dumps({"error": error})


def _limit_time(action: _Action, rule: RouteRule, policy: PolicyTimeout, backends: Sequence[Backend]) -> None:
    """The rule's own timeouts stand above the policy's. With neither a request takes as long as it takes: a limit that
    nobody set would cut off long answers. 0 is the API's way to say so."""
    whole_s = rule.timeouts.request if rule.timeouts.request is not None else policy.http.request_timeout
    one_try_s = rule.timeouts.backend_request
    retried = any(each.pool is not None for each in backends)
    if one_try_s and retried:
        action.retry_policy.CopyFrom(next_endpoint_policy())
        action.retry_policy.per_try_timeout.CopyFrom(duration(one_try_s))
    elif one_try_s:
        # A single try: its limit is the request's.
        whole_s = min(one_try_s, whole_s) if whole_s else one_try_s
    action.timeout.CopyFrom(duration(whole_s or 0.0))


def _change_headers(route: route_components_pb2.Route, filters: Iterable[RouteFilter]) -> None:
    for each in filters:
        if each.type == "RequestHeaderModifier":
            change_request(route, each.request_header_modifier)
        else:
            change_response(route, each.response_header_modifier)
