"""The backends of an HTTPRoute's rule, and their shares of the requests of Envoy's route."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from envoy.config.route.v3 import route_components_pb2

from picker.resources.inference import InferencePool
from picker.resources.names import ObjectName, PoolName
from picker.xds.clusters import INVALID_BACKEND_CLUSTER, pool_cluster_name
from picker.xds.header_changes import HeaderChanges, change_request, change_response
from picker.xds.protobuf import uint32

_Weighted = route_components_pb2.WeightedCluster.ClusterWeight
_RULE_CLUSTER = re.compile(
    r"httproute/(?P<namespace>[^/]+)/(?P<name>[^/]+)/rule/(?P<rule>\d+)(/backend/(?P<backend>\d+))?"
)


@dataclass(frozen=True, slots=True)
class RuleName:
    """A rule of an HTTPRoute. `backend` is set if the cluster is that of a single backend."""

    route: ObjectName
    rule: int
    backend: int | None

    @classmethod
    def of_cluster(cls, name: str) -> "RuleName | None":
        """Parses the name of a rule's cluster in Envoy Gateway; returns None for other clusters."""
        match = _RULE_CLUSTER.fullmatch(name)
        if match is None:
            return None
        backend = match["backend"]
        return cls(ObjectName(match["namespace"], match["name"]), int(match["rule"]), int(backend) if backend else None)


@dataclass(frozen=True, slots=True)
class RuleBackend:
    """A backend of a rule, as the HTTPRoute defines it."""

    pool: PoolName | None
    """None for a Service, or anything else that Envoy Gateway translates itself."""
    weight: int
    request_changes: tuple[HeaderChanges, ...] = ()
    """Header modifications of requests, by the filters of the reference."""
    response_changes: tuple[HeaderChanges, ...] = ()
    """Header modifications of responses."""

    @property
    def changes_headers(self) -> bool:
        return bool(self.request_changes or self.response_changes)


def rule_of_route(route: route_components_pb2.Route) -> RuleName | None:
    """Returns the rule of a route; None for a route without backends, or of another origin."""
    action = route.route
    names = [action.cluster, *(weighted.name for weighted in action.weighted_clusters.clusters)]
    return next((rule for name in names if (rule := RuleName.of_cluster(name)) is not None), None)


def backends_of_deleted_rule(pools: Sequence[InferencePool]) -> list[RuleBackend]:
    """Returns backends of a rule that the HTTPRoute no longer has; only the pools passed to the hook are known."""
    return [RuleBackend(pool.name, 1) for pool in pools]


def split_to_pools(
    action: route_components_pb2.RouteAction, pools: Sequence[InferencePool], backends: Sequence[RuleBackend]
) -> dict[str, InferencePool]:
    """Replaces the clusters of rules in `action` by those of the pools, and returns the pools by cluster name."""
    made = [share for entry in _entries(action, backends) for share in _split(entry, action, pools, backends)]
    made = [share for share in made if share.weight.value]
    names = {share.name for share in made}
    if action.cluster and len(names) == 1 and not any(share.changes_headers for share in backends):
        [action.cluster] = names
    elif made:
        del action.weighted_clusters.clusters[:]
        action.weighted_clusters.clusters.extend(made)
    if INVALID_BACKEND_CLUSTER in names:
        action.cluster_not_found_response_code = route_components_pb2.RouteAction.INTERNAL_SERVER_ERROR
    return {name: pool for pool in pools if (name := pool_cluster_name(pool.name)) in names}


def _split(
    entry: _Weighted,
    action: route_components_pb2.RouteAction,
    pools: Sequence[InferencePool],
    backends: Sequence[RuleBackend],
) -> list[_Weighted]:
    """Splits an entry of the action by weight: the clusters of its pools, and itself for the rest."""
    rule = RuleName.of_cluster(entry.name)
    if rule is None:
        return [entry]
    known = {pool.name for pool in pools}
    if rule.backend is not None:
        backend = backends[rule.backend] if rule.backend < len(backends) else None
        if backend is None or backend.pool is None or backend.pool not in known:
            return [entry]
        return [_weighted_like(entry, pool_cluster_name(backend.pool), entry.weight.value, backend)]
    weights = Counter[PoolName]()
    for member in backends:
        if member.pool is not None:
            weights[member.pool] += member.weight
    changing = [
        (member.pool, member) for member in backends if member.changes_headers and member.pool in known and member.pool
    ]
    # If Envoy Gateway has not split off the share of missing backends, it is still part of the cluster's share.
    missing = sum(weight for name, weight in weights.items() if name not in known) if action.cluster else 0
    members = {name: weight for name, weight in weights.items() if name in known}
    rest = entry.weight.value - missing - sum(members.values())
    for name, member in changing:
        members[name] -= member.weight
    return [
        *(_weighted_like(entry, pool_cluster_name(name), member.weight, member) for name, member in changing),
        *(_weighted_like(entry, pool_cluster_name(name), members[name]) for name in sorted(members, key=str)),
        _weighted_like(entry, INVALID_BACKEND_CLUSTER, missing),
        _weighted_like(entry, entry.name, max(0, rest)),
    ]


def _entries(action: route_components_pb2.RouteAction, backends: Sequence[RuleBackend]) -> list[_Weighted]:
    if action.cluster:
        return [_Weighted(name=action.cluster, weight=uint32(sum(backend.weight for backend in backends)))]
    return list(action.weighted_clusters.clusters)


def _weighted_like(entry: _Weighted, name: str, weight: int, backend: RuleBackend | None = None) -> _Weighted:
    """Returns `entry` for the cluster `name`, with the header modifications of `backend`."""
    made = _Weighted()
    made.CopyFrom(entry)
    made.name, made.weight.value = name, weight
    for changes in backend.request_changes if backend is not None else ():
        change_request(made, changes)
    for changes in backend.response_changes if backend is not None else ():
        change_response(made, changes)
    return made
