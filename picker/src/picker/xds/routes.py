"""The rules of an HTTPRoute as Envoy's routes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2

from picker.endpoints.datastore import service_key
from picker.resources.envoy_gateway import PolicyTimeout
from picker.resources.gateway_api import BackendRef, HTTPRoute, RouteFilter, RouteMatch, RouteRule
from picker.resources.names import ObjectName, PoolName
from picker.resources.objects import Resources
from picker.xds.clusters import INVALID_BACKEND_CLUSTER, pool_cluster_name
from picker.xds.header_changes import change_request, change_response
from picker.xds.pool_route import next_endpoint_policy, with_ext_proc
from picker.xds.protobuf import duration, uint32
from picker.xds.route_matches import Precedence, age_rank, envoy_match, precedence

_Action = route_components_pb2.RouteAction
_Append = base_pb2.HeaderValueOption

Rank = tuple[Precedence, float, str, int, int]


@dataclass(frozen=True, slots=True)
class Backend:
    """The resolved meaning of a backend reference."""

    cluster: str
    weight: int
    pool: PoolName | None = None
    service: tuple[ObjectName, int] | None = None


@dataclass(frozen=True, slots=True)
class RankedRoute:
    """A route and its rank among those of its virtual host, the lowest first."""

    rank: Rank
    route: route_components_pb2.Route
    backends: tuple[Backend, ...]


def backend(ref: BackendRef, namespace: str, resources: Resources) -> Backend:
    """Resolves a reference in an object of `namespace`. A reference to nothing gets INVALID_BACKEND_CLUSTER. The port
    of a reference to a pool is ignored."""
    namespace = ref.namespace or namespace
    if ref.kind == "InferencePool":
        pool = PoolName(ref.group, namespace, ref.name)
        if pool in resources.pools:
            return Backend(pool_cluster_name(pool), ref.weight, pool=pool)
    elif ref.port is not None:
        name = ObjectName(namespace, ref.name)
        service = next((candidate for candidate in resources.services if candidate.name == name), None)
        if service is not None and any(port.port == ref.port for port in service.spec.ports):
            return Backend(service_key(name, ref.port), ref.weight, service=(name, ref.port))
    return Backend(INVALID_BACKEND_CLUSTER, ref.weight)


def routes(
    http_route: HTTPRoute, resources: Resources, policy: PolicyTimeout, picker_cluster: str, max_body_bytes: int
) -> list[RankedRoute]:
    """Returns a route for each match of each rule."""
    made: list[RankedRoute] = []
    for rule_index, rule in enumerate(http_route.spec.rules):
        backends = tuple(backend(ref, http_route.metadata.namespace, resources) for ref in rule.backend_refs)
        # A rule with an empty list of matches matches everything, like one without the list.
        for match_index, match in enumerate(rule.matches or (RouteMatch(),)):
            name = f"httproute/{http_route.name}/rule/{rule_index}/match/{match_index}"
            route = route_components_pb2.Route(name=name, match=envoy_match(match))
            _change_headers(route, rule.filters)
            _set_backends(route, http_route, rule, backends)
            if route.HasField("route"):
                _limit_time(route.route, rule, policy, backends)
            pools = {backend_.cluster: backend_.pool for backend_ in backends if backend_.pool is not None}
            rank: Rank = (precedence(match), age_rank(http_route), str(http_route.name), rule_index, match_index)
            made.append(RankedRoute(rank, with_ext_proc(route, pools, picker_cluster, max_body_bytes), backends))
    return made


def _set_backends(
    route: route_components_pb2.Route, http_route: HTTPRoute, rule: RouteRule, backends: Sequence[Backend]
) -> None:
    """Sets one cluster, weighted clusters, or a direct response of 500 if no backend exists, as the Gateway API
    requires."""
    weighted = [backend_ for backend_ in backends if backend_.weight > 0]
    if all(backend_.cluster == INVALID_BACKEND_CLUSTER for backend_ in weighted):
        refs = [f"{ref.kind} {ref.namespace or http_route.metadata.namespace}/{ref.name}" for ref in rule.backend_refs]
        route.direct_response.status = 500
        route.direct_response.body.inline_string = _no_backend(http_route, refs)
        header = base_pb2.HeaderValue(key="content-type", value="application/json")
        route.response_headers_to_add.append(_Append(header=header, append_action=_Append.OVERWRITE_IF_EXISTS_OR_ADD))
        return
    route.route.cluster_not_found_response_code = _Action.INTERNAL_SERVER_ERROR
    if len(weighted) == 1:
        route.route.cluster = weighted[0].cluster
        return
    for backend_ in weighted:
        route.route.weighted_clusters.clusters.add(name=backend_.cluster, weight=uint32(backend_.weight))


def _no_backend(http_route: HTTPRoute, refs: Iterable[str]) -> str:
    named = ", ".join(refs) or "it names none"
    message = f"HTTPRoute {http_route.name} has no backend that exists ({named})."
    error = {"message": message, "type": "server_error", "param": None, "code": "backend-not-found"}
    return json.dumps({"error": error})


def _limit_time(action: _Action, rule: RouteRule, policy: PolicyTimeout, backends: Sequence[Backend]) -> None:
    """Sets the timeouts. The rule's own precede the policy's. Without either, the request has no time limit, because a
    default would cut off long responses. 0 means no limit in the API."""
    request_s = rule.timeouts.request if rule.timeouts.request is not None else policy.http.request_timeout
    per_try_s = rule.timeouts.backend_request
    has_retries = any(backend_.pool is not None for backend_ in backends)
    if per_try_s and has_retries:
        action.retry_policy.CopyFrom(next_endpoint_policy())
        action.retry_policy.per_try_timeout.CopyFrom(duration(per_try_s))
    elif per_try_s:
        # There is a single try: its limit is the request's.
        request_s = min(per_try_s, request_s) if request_s else per_try_s
    action.timeout.CopyFrom(duration(request_s or 0.0))


def _change_headers(route: route_components_pb2.Route, filters: Iterable[RouteFilter]) -> None:
    for route_filter in filters:
        if route_filter.type == "RequestHeaderModifier":
            change_request(route, route_filter.request_header_modifier)
        else:
            change_response(route, route_filter.response_header_modifier)
