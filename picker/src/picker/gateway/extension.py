"""Makes Envoy Gateway's translation pool-aware, hook by hook. Pure: what a hook is given is all that it knows, so that
the same objects give the same bytes, whichever replica is asked, and a second pass changes nothing.

What one hook has to tell a later one travels in the messages themselves: a route's filter override names the picker's
cluster, and a cluster carries its siblings in its metadata.

Names that Envoy Gateway gives: a rule's cluster is `httproute/NAMESPACE/NAME/rule/N`; where Services are among several
backends, each has its own, `.../backend/M`. Several pools of one rule arrive as a single cluster."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from picker.gateway.clusters import picker_cluster, pool_cluster
from picker.gateway.ext_proc_filter import FILTER_NAME
from picker.gateway.listeners import with_inference_filter
from picker.gateway.packing import packed, uint32
from picker.gateway.pool_route import asking_picker
from picker.resources.inference import InferencePool
from picker.resources.names import ObjectName, PoolName

NO_BACKEND_CLUSTER = "inferencepool-without-backend"
"""A cluster that does not exist: it takes the share of a backend that does not, and Envoy answers 500."""

_PICKER_PREFIX = "inferencepicker"
_SIBLINGS = "inference-gateway.sibling-clusters"
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


@dataclass(frozen=True, slots=True)
class Joints:
    """Where the extension's parts are, for Envoy."""

    eds_target: str
    """`host:port` of the gRPC server that tells the pools' endpoints."""
    cluster_domain: str
    """`cluster.local`, mostly."""
    max_body_bytes: int
    shared_picker: ObjectName | None = None
    """A picker's Service that pools of other namespaces may name, too, as if it stood in theirs."""
    sharing_namespaces: frozenset[str] = frozenset()


def needs_backends(cluster: str, pools: Sequence[InferencePool]) -> RuleName | None:
    """The rule whose backends have to be looked up before a hook can do its part with `cluster`; None where the pools
    themselves are enough."""
    rule = RuleName.of_cluster(cluster)
    if rule is None or not pools or (rule.backend is None and len(pools) == 1):
        return None
    return rule


def route_clusters(route: route_components_pb2.Route) -> list[str]:
    """The clusters that a route leads to."""
    action = route.route
    if action.WhichOneof("cluster_specifier") == "weighted_clusters":
        return [each.name for each in action.weighted_clusters.clusters]
    return [action.cluster] if action.cluster else []


class Extension:
    """The three hooks."""

    def __init__(self, joints: Joints) -> None:
        self._joints = joints

    def route(
        self,
        route: route_components_pb2.Route,
        pools: Sequence[InferencePool],
        backends: Sequence[RuleBackend],
    ) -> route_components_pb2.Route:
        """`pools`: those of the route's rule. `backends`: of the rule; needed where `needs_backends` says so for one of
        the route's clusters. Makes each of the route's clusters that is a pool's ask that pool's picker."""
        if not pools or not route.HasField("route"):
            return route
        by_name = {pool.name: pool for pool in pools}
        made = route_components_pb2.Route()
        made.CopyFrom(route)
        clusters = route_clusters(made)
        if len(clusters) == 1 and len(pools) > 1:
            pool_of = _split_by_weight(made, clusters[0], pools, backends)
        else:
            pool_of = {name: pool for name in clusters if (pool := _pool_of(name, pools, backends)) is not None}
        for cluster in sorted(pool_of):
            pool = by_name[pool_of[cluster]]
            picker = self._picker_cluster_name(pool)
            made = asking_picker(made, {cluster: pool.name}, picker, self._joints.max_body_bytes)
        return made

    def cluster(
        self,
        cluster: cluster_pb2.Cluster,
        pools: Sequence[InferencePool],
        backends: Sequence[RuleBackend],
    ) -> cluster_pb2.Cluster:
        """The same parameters as `route`. A pool's cluster in place of Envoy Gateway's empty one, under its name."""
        own = _pool_of(cluster.name, pools, backends)
        if own is not None:
            return self._cluster(cluster.name, next(pool for pool in pools if pool.name == own))
        if len(pools) < 2 or RuleName.of_cluster(cluster.name) is None or _is_backend(cluster.name):
            return cluster
        first, *others = _ordered(pools)
        made = self._cluster(cluster.name, first)
        for index, pool in enumerate(others, start=1):
            sibling = self._cluster(_sibling_name(cluster.name, index), pool)
            made.metadata.typed_filter_metadata[f"{_SIBLINGS}/{index}"].CopyFrom(packed(sibling))
        return made

    def translation(
        self,
        clusters: Iterable[cluster_pb2.Cluster],
        listeners: Iterable[listener_pb2.Listener],
        routes: Iterable[route_pb2.RouteConfiguration],
    ) -> tuple[list[cluster_pb2.Cluster], list[listener_pb2.Listener]]:
        """The clusters with siblings and pickers among them, and the listeners, the picker's filter in those that have
        a route to a pool."""
        pickers_of = {configuration.name: _pickers_of(configuration) for configuration in routes}
        all_clusters = {each.name: each for cluster in clusters for each in _with_siblings(cluster)}
        for name in sorted(set[str]().union(*pickers_of.values())):
            all_clusters[name] = self._picker_cluster(name)
        made: list[listener_pb2.Listener] = []
        for listener in listeners:
            pickers = sorted(
                set[str]().union(*(pickers_of.get(name, set()) for name in _route_configurations(listener)))
            )
            made.append(with_inference_filter(listener, pickers[0]) if pickers else listener)
        return list(all_clusters.values()), made

    def _cluster(self, name: str, pool: InferencePool) -> cluster_pb2.Cluster:
        made = pool_cluster(pool, self._joints.eds_target)
        made.name = name
        return made

    def _picker_cluster_name(self, pool: InferencePool) -> str:
        """Says where the picker is: the hook that makes the cluster is given no more than this name."""
        if pool.picker is None:
            return f"{_PICKER_PREFIX}/none"
        service = self.service(pool.picker.service)
        return f"{_PICKER_PREFIX}/{service.namespace}/{service.name}/{pool.picker.port}"

    def service(self, named: ObjectName) -> ObjectName:
        """The Service that is meant by the one that a pool names."""
        shared = self._joints.shared_picker
        if shared is None or named.name != shared.name or named.namespace not in self._joints.sharing_namespaces:
            return named
        return shared

    def _picker_cluster(self, name: str) -> cluster_pb2.Cluster:
        _, namespace, service, port = name.split("/")
        return picker_cluster(name, f"{service}.{namespace}.svc.{self._joints.cluster_domain}", int(port))


def _pool_of(cluster: str, pools: Sequence[InferencePool], backends: Sequence[RuleBackend]) -> PoolName | None:
    """The pool whose cluster this is: the rule's only one, or that of the backend that the cluster's name tells."""
    rule = RuleName.of_cluster(cluster)
    if rule is None:
        return None
    if rule.backend is None:
        return pools[0].name if len(pools) == 1 else None
    pool = backends[rule.backend].pool if rule.backend < len(backends) else None
    return pool if any(pool == each.name for each in pools) else None


def _split_by_weight(
    route: route_components_pb2.Route, cluster: str, pools: Sequence[InferencePool], backends: Sequence[RuleBackend]
) -> dict[str, PoolName]:
    """Lead `route` to each of the rule's pools by weight, and to nowhere for the share of pools that do not exist. The
    pools of the clusters."""
    weights: dict[PoolName | None, int] = {}
    known = {pool.name for pool in pools}
    for backend in backends:
        pool = backend.pool if backend.pool in known else None
        weights[pool] = weights.get(pool, 0) + backend.weight
    action = route.route
    action.ClearField("cluster")
    pool_of: dict[str, PoolName] = {}
    for index, pool in enumerate(_ordered(pools)):
        name = _sibling_name(cluster, index) if index else cluster
        if weights.get(pool.name, 0):
            action.weighted_clusters.clusters.add(name=name, weight=uint32(weights[pool.name]))
            pool_of[name] = pool.name
    if nowhere := weights.get(None, 0):
        action.weighted_clusters.clusters.add(name=NO_BACKEND_CLUSTER, weight=uint32(nowhere))
        action.cluster_not_found_response_code = route_components_pb2.RouteAction.INTERNAL_SERVER_ERROR
    if not pool_of and not nowhere:
        route.direct_response.status = 500
    return pool_of


def _ordered(pools: Sequence[InferencePool]) -> list[InferencePool]:
    return sorted(pools, key=lambda pool: str(pool.name))


def _sibling_name(cluster: str, index: int) -> str:
    return f"{cluster}/pool/{index}"


def _is_backend(cluster: str) -> bool:
    rule = RuleName.of_cluster(cluster)
    return rule is not None and rule.backend is not None


def _with_siblings(cluster: cluster_pb2.Cluster) -> Iterable[cluster_pb2.Cluster]:
    """The cluster, and those that it carries."""
    keys = sorted(key for key in cluster.metadata.typed_filter_metadata if key.startswith(_SIBLINGS))
    if not keys:
        yield cluster
        return
    made = cluster_pb2.Cluster()
    made.CopyFrom(cluster)
    for key in keys:
        del made.metadata.typed_filter_metadata[key]
    yield made
    for key in keys:
        yield cluster_pb2.Cluster.FromString(cluster.metadata.typed_filter_metadata[key].value)


def _pickers_of(configuration: route_pb2.RouteConfiguration) -> set[str]:
    """The pickers' clusters that a route configuration's routes ask."""
    found: set[str] = set()
    for host in configuration.virtual_hosts:
        for route in host.routes:
            overrides = [
                route.typed_per_filter_config,
                *(each.typed_per_filter_config for each in route.route.weighted_clusters.clusters),
            ]
            for override in overrides:
                if FILTER_NAME in override:
                    per_route = ext_proc_pb2.ExtProcPerRoute.FromString(override[FILTER_NAME].value)
                    found.add(per_route.overrides.grpc_service.envoy_grpc.cluster_name)
    return {name for name in found if name.count("/") == 3}


def _route_configurations(listener: listener_pb2.Listener) -> Iterable[str]:
    """The route configurations that a listener's filter chains use."""
    chains = [
        *listener.filter_chains,
        *([listener.default_filter_chain] if listener.HasField("default_filter_chain") else []),
    ]
    for chain in chains:
        for each in chain.filters:
            if each.typed_config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
                yield hcm_pb2.HttpConnectionManager.FromString(each.typed_config.value).rds.route_config_name
