"""Makes Envoy Gateway's translation pool-aware, hook by hook. Pure: what a hook is given is all that it knows, so that
the same objects give the same bytes, whichever replica is asked, and a second pass changes nothing.

What one hook has to tell a later one travels in the messages themselves: a route's filter override names the picker's
cluster, and a rule's cluster carries those of its pools in its metadata.

Names that Envoy Gateway gives: a rule's cluster is `httproute/NAMESPACE/NAME/rule/N`. It stands for all of the rule's
backends, pools and Services, and has the Services' endpoints; or each backend has its own, `.../backend/M`. A pool has
one cluster, whichever rules lead to it: a cluster answers 503 until Envoy has its endpoints, and one by the name of a
rule would do so whenever a rule is put before it, or a backend beside it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf.any_pb2 import Any

from picker.bounded_text import shorten
from picker.resources.inference import AppProtocol, InferencePool, PickerRef
from picker.resources.names import ObjectName, PoolName
from picker.xds.cluster_policies import with_policies
from picker.xds.clusters import followed_picker_cluster, pool_cluster
from picker.xds.listeners import with_inference_filter
from picker.xds.picker_ref import PickerName
from picker.xds.picker_tls import PickerTls, transport_socket
from picker.xds.pool_route import with_ext_proc
from picker.xds.protobuf import pack_any
from picker.xds.route_configurations import (
    pickers_of,
    route_configurations,
    with_idle_timeout,
    without_idle_timeouts,
)
from picker.xds.route_expressions import without_rejected_expressions
from picker.xds.rule_shares import (
    NO_BACKEND_CLUSTER,
    RuleBackend,
    RuleName,
    lead_to_pools,
    of_gone_rule,
    rule_of_route,
)

log = structlog.get_logger(__name__)

_NO_PICKER = "inferencepicker/none"
_POOLS = "inference-gateway.pool-clusters"


@dataclass(frozen=True, slots=True)
class ExtensionConfig:
    """Where the extension's parts are, for Envoy."""

    eds_target: str
    """`host:port` of the gRPC server that tells the pools' endpoints."""
    cluster_domain: str
    """`cluster.local`, mostly."""
    max_body_bytes: int
    shared_picker: ObjectName | None = None
    """A picker's Service that pools of other namespaces may name, too, as if it stood in theirs."""
    sharing_namespaces: frozenset[str] = frozenset()


class Extension:
    """The three hooks."""

    picker_tls: PickerTls | None = None
    """What the picker that asks for TLS is asked with; set before the first hook, and again after each renewal."""

    def __init__(self, joints: ExtensionConfig) -> None:
        self._joints = joints
        self._packed_clusters: dict[tuple[PoolName, PickerRef | None, AppProtocol], Any] = {}
        """By what they depend on."""

    def route(
        self,
        route: route_components_pb2.Route,
        pools: Sequence[InferencePool],
        backends: Sequence[RuleBackend],
        strangers: Collection[ObjectName] = (),
    ) -> route_components_pb2.Route:
        """`pools`: those of the route's rule that exist. `backends`: all of the rule. `strangers`: the Services whose
        pickers are not this project's. Leads to each pool by its weight, by way of that pool's picker."""
        route, problems = without_rejected_expressions(route)
        if problems:
            log.warning(
                "extension.rejected_expressions", route=shorten(route.name), problems=shorten("; ".join(problems))
            )
        if not pools or not route.HasField("route"):
            return route
        made = route_components_pb2.Route()
        made.CopyFrom(route)
        pool_of = lead_to_pools(made.route, pools, backends or of_gone_rule(pools))
        for cluster, pool in sorted(pool_of.items()):
            picker = self.picker(pool)
            is_strange = picker is not None and picker.service in strangers
            name = str(picker) if picker is not None else _NO_PICKER
            made = with_ext_proc(made, {cluster: pool.name}, name, self._joints.max_body_bytes, streamed=is_strange)
        return made

    def cluster(
        self, cluster: cluster_pb2.Cluster, pools: Sequence[InferencePool], backends: Sequence[RuleBackend]
    ) -> cluster_pb2.Cluster:
        """The same parameters as `route`. The cluster, with those of the pools that it stands for."""
        rule = RuleName.of_cluster(cluster.name)
        if rule is None or not pools:
            return cluster
        backends = backends or of_gone_rule(pools)
        of_cluster = backends if rule.backend is None else backends[rule.backend : rule.backend + 1]
        names = {backend.pool for backend in of_cluster}
        made = cluster_pb2.Cluster()
        made.CopyFrom(cluster)
        for pool in pools:
            if pool.name in names:
                made.metadata.typed_filter_metadata[f"{_POOLS}/{pool.name}"].CopyFrom(self._packed_cluster(pool))
        return made

    def translation(
        self,
        clusters: Iterable[cluster_pb2.Cluster],
        listeners: Iterable[listener_pb2.Listener],
        routes: Iterable[route_pb2.RouteConfiguration],
        *,
        with_keys: bool = True,
    ) -> tuple[list[cluster_pb2.Cluster], list[listener_pb2.Listener]]:
        """The clusters with those of pools and pickers among them, and the listeners, the picker's filter in those that
        have a route to a pool. `with_keys`: whether the caller may have Envoy's key."""
        asked = {configuration.name: pickers_of(configuration) for configuration in routes}
        all_clusters = _with_pools(clusters)
        for picker in sorted(set[PickerName]().union(*asked.values()), key=str):
            all_clusters[str(picker)] = self._picker_cluster(picker, with_keys)
        made: list[listener_pb2.Listener] = []
        for listener in listeners:
            pickers = set[PickerName]().union(*(asked.get(name, ()) for name in route_configurations(listener)))
            made.append(with_inference_filter(listener, min(map(str, pickers))) if pickers else listener)
        return list(all_clusters.values()), made

    def routes(
        self, listeners: Iterable[listener_pb2.Listener], routes: Iterable[route_pb2.RouteConfiguration]
    ) -> list[route_pb2.RouteConfiguration]:
        """The route configurations, in which a stream of a route to a pool may be silent for as long as it takes: Envoy
        would end it after 5 minutes. A limit that the user wrote for the route or for a listener stays."""
        limited = {name for listener in listeners for name in with_idle_timeout(listener)}
        return [each if each.name in limited else without_idle_timeouts(each) for each in routes]

    def _packed_cluster(self, pool: InferencePool) -> Any:
        """Made once for all rules that lead to the pool: hundreds of them have to take no second."""
        looks = pool.name, pool.picker, pool.app_protocol
        if looks not in self._packed_clusters:
            self._packed_clusters[looks] = pack_any(pool_cluster(pool, self._joints.eds_target))
        return self._packed_clusters[looks]

    def picker(self, pool: InferencePool) -> PickerName | None:
        """The picker that is meant by a pool."""
        return PickerName(self.service(pool.picker.service), pool.picker.port) if pool.picker is not None else None

    def service(self, named: ObjectName) -> ObjectName:
        """The Service that is meant by the one that a pool names."""
        shared = self._joints.shared_picker
        if shared is None or named.name != shared.name or named.namespace not in self._joints.sharing_namespaces:
            return named
        return shared

    def _picker_cluster(self, picker: PickerName, with_keys: bool) -> cluster_pb2.Cluster:
        cluster = followed_picker_cluster(picker, self._joints.eds_target)
        if with_keys and self.picker_tls is not None and self.picker_tls.service == picker.service:
            host = f"{picker.service.name}.{picker.service.namespace}.svc.{self._joints.cluster_domain}"
            # For the endpoints that are marked: each by itself, so that TLS can be switched under traffic.
            cluster.transport_socket_matches[0].transport_socket.CopyFrom(transport_socket(self.picker_tls, host))
        return cluster


def _with_pools(clusters: Iterable[cluster_pb2.Cluster]) -> dict[str, cluster_pb2.Cluster]:
    """The clusters, and those of the pools that they carry with what is written for them. By name."""
    made: dict[str, cluster_pb2.Cluster] = {}
    carried: dict[bytes, list[cluster_pb2.Cluster]] = {}
    for cluster in clusters:
        made[cluster.name] = cluster
        keys = sorted(key for key in cluster.metadata.typed_filter_metadata if key.startswith(_POOLS))
        if keys:
            bare = made[cluster.name] = cluster_pb2.Cluster()
            bare.CopyFrom(cluster)
        for key in keys:
            del made[cluster.name].metadata.typed_filter_metadata[key]
            carried.setdefault(cluster.metadata.typed_filter_metadata[key].value, []).append(cluster)
    for packed_pool, rules in carried.items():
        pool = with_policies(cluster_pb2.Cluster.FromString(packed_pool), rules)
        made[pool.name] = pool
    return made


__all__ = ["NO_BACKEND_CLUSTER", "Extension", "ExtensionConfig", "RuleBackend", "RuleName", "rule_of_route"]
