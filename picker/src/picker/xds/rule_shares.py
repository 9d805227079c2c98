"""The backends of an HTTPRoute's rule, and their shares of the requests of Envoy's route."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from envoy.config.route.v3 import route_components_pb2

from picker.resources.inference import InferencePool
from picker.resources.names import ObjectName, PoolName
from picker.xds.clusters import pool_cluster_name
from picker.xds.header_changes import HeaderChanges, change_request, change_response
from picker.xds.protobuf import uint32

NO_BACKEND_CLUSTER = "inferencepool-without-backend"
"""A cluster that does not exist: it takes the share of a backend that does not, and Envoy answers 500."""

_Weighted = route_components_pb2.WeightedCluster.ClusterWeight
_RULE_CLUSTER = re.compile(
    r"httproute/(?P<namespace>[^/]+)/(?P<name>[^/]+)/rule/(?P<rule>\d+)(/backend/(?P<backend>\d+))?"
)


@dataclass(frozen=True, slots=True)
class RuleName:
    """A rule of an HTTPRoute, and one of its backends where the cluster is one backend's."""

    route: ObjectName
    rule: int
    backend: int | None

    @classmethod
    def of_cluster(cls, name: str) -> "RuleName | None":
        """By the name that Envoy Gateway gives a rule's cluster; None for the clusters of other things."""
        found = _RULE_CLUSTER.fullmatch(name)
        if found is None:
            return None
        backend = found["backend"]
        return cls(ObjectName(found["namespace"], found["name"]), int(found["rule"]), int(backend) if backend else None)


@dataclass(frozen=True, slots=True)
class RuleBackend:
    """A backend of a rule, as the HTTPRoute says."""

    pool: PoolName | None
    """None for a Service, or anything else that Envoy Gateway translates itself."""
    weight: int
    request_changes: tuple[HeaderChanges, ...] = ()
    """Of the headers of requests to it, by the filters of the reference."""
    response_changes: tuple[HeaderChanges, ...] = ()
    """The same of its answers."""

    @property
    def changes_headers(self) -> bool:
        return bool(self.request_changes or self.response_changes)


def rule_of_route(route: route_components_pb2.Route) -> RuleName | None:
    """The rule that a route was made from; None for a route that leads nowhere, or was made from something else."""
    action = route.route
    names = [action.cluster, *(each.name for each in action.weighted_clusters.clusters)]
    return next((rule for name in names if (rule := RuleName.of_cluster(name)) is not None), None)


def of_gone_rule(pools: Sequence[InferencePool]) -> list[RuleBackend]:
    """The backends of a rule that the HTTPRoute has no longer: what the hook was given is all that is known."""
    return [RuleBackend(pool.name, 1) for pool in pools]


def lead_to_pools(
    action: route_components_pb2.RouteAction, pools: Sequence[InferencePool], backends: Sequence[RuleBackend]
) -> dict[str, InferencePool]:
    """Replace in `action` what stands for pools by the pools' own clusters. The pools by those."""
    made = [each for entry in _entries(action, backends) for each in _split(entry, action, pools, backends)]
    made = [each for each in made if each.weight.value]
    names = {each.name for each in made}
    if action.cluster and len(names) == 1 and not any(each.changes_headers for each in backends):
        [action.cluster] = names
    elif made:
        del action.weighted_clusters.clusters[:]
        action.weighted_clusters.clusters.extend(made)
    if NO_BACKEND_CLUSTER in names:
        action.cluster_not_found_response_code = route_components_pb2.RouteAction.INTERNAL_SERVER_ERROR
    return {name: pool for pool in pools if (name := pool_cluster_name(pool.name)) in names}


def _split(
    entry: _Weighted,
    action: route_components_pb2.RouteAction,
    pools: Sequence[InferencePool],
    backends: Sequence[RuleBackend],
) -> list[_Weighted]:
    """What an entry of the action stands for, by weight: the clusters of its pools, and itself for the rest."""
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
    for each in backends:
        if each.pool is not None:
            weights[each.pool] += each.weight
    changing = [(each.pool, each) for each in backends if each.changes_headers and each.pool in known and each.pool]
    # Where Envoy Gateway has not set the share aside that leads nowhere, it is still in the cluster's.
    missing = sum(weight for name, weight in weights.items() if name not in known) if action.cluster else 0
    members = {name: weight for name, weight in weights.items() if name in known}
    rest = entry.weight.value - missing - sum(members.values())
    for name, each in changing:
        members[name] -= each.weight
    return [
        *(_weighted_like(entry, pool_cluster_name(name), each.weight, each) for name, each in changing),
        *(_weighted_like(entry, pool_cluster_name(name), members[name]) for name in sorted(members, key=str)),
        _weighted_like(entry, NO_BACKEND_CLUSTER, missing),
        _weighted_like(entry, entry.name, max(0, rest)),
    ]


def _entries(action: route_components_pb2.RouteAction, backends: Sequence[RuleBackend]) -> list[_Weighted]:
    if action.cluster:
        return [_Weighted(name=action.cluster, weight=uint32(sum(each.weight for each in backends)))]
    return list(action.weighted_clusters.clusters)


def _weighted_like(entry: _Weighted, name: str, weight: int, backend: RuleBackend | None = None) -> _Weighted:
    """`entry` for the cluster `name`, with the changes of headers of `backend`."""
    made = _Weighted()
    made.CopyFrom(entry)
    made.name, made.weight.value = name, weight
    for changes in backend.request_changes if backend is not None else ():
        change_request(made, changes)
    for changes in backend.response_changes if backend is not None else ():
        change_response(made, changes)
    return made
