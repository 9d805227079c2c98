"""The hooks that add pools to Envoy Gateway's translation.

The hooks are pure: they use only their arguments. The same objects give the same bytes in every replica, and a second
pass changes nothing.

A hook passes data to a later one inside Envoy's messages. A route's filter override names the picker's cluster, and a
rule's cluster carries the clusters of its pools in its metadata.

Envoy Gateway names a rule's cluster `httproute/NAMESPACE/NAME/rule/N`. It represents all backends of the rule, pools
and Services, and has the endpoints of the Services. Alternatively each backend has its own cluster, `.../backend/M`.

A pool has one cluster for all rules. A new cluster answers 503 until Envoy has its endpoints. A cluster named after a
rule would do so whenever a rule is inserted before it, or a backend is added to it."""

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
from picker.xds.clusters import eds_picker_cluster, pool_cluster
from picker.xds.ext_proc_filter import inference_filter
from picker.xds.listeners import with_filters
from picker.xds.model_filter import with_model_filter
from picker.xds.model_names import DeclaredModels
from picker.xds.model_routes import routes_by_model, with_model_routing
from picker.xds.picker_ref import PickerName
from picker.xds.picker_tls import PickerTls, transport_socket
from picker.xds.pool_route import with_ext_proc
from picker.xds.protobuf import pack_any
from picker.xds.route_configurations import (
    configurations_with_idle_timeout,
    pickers_of,
    route_configurations,
    without_idle_timeouts,
)
from picker.xds.route_expressions import without_rejected_expressions
from picker.xds.rule_shares import (
    RuleBackend,
    RuleName,
    backends_of_deleted_rule,
    rule_of_route,
    split_to_pools,
)
from picker.xds.third_party_picker import third_party_filters

log = structlog.get_logger(__name__)

_NO_PICKER = "inferencepicker/none"
_POOLS = "inference-gateway.pool-clusters"


@dataclass(frozen=True, slots=True)
class ExtensionConfig:
    """Addresses and limits that the extension writes into Envoy's configuration."""

    eds_target: str
    """`host:port` of the EDS server."""
    cluster_domain: str
    """The DNS domain of the cluster, usually `cluster.local`."""
    max_body_bytes: int
    shared_picker: ObjectName | None = None
    """A picker's Service that pools of other namespaces may name as if it were in theirs."""
    sharing_namespaces: frozenset[str] = frozenset()


class Extension:
    """The three hooks: route, cluster and translation."""

    picker_tls: PickerTls | None = None
    """Envoy's certificate for pickers with TLS. It is set before the first hook, and again after each renewal."""
    declared: DeclaredModels = DeclaredModels()
    """The models that objects declare, which Envoy Gateway does not send. It is set again after each change."""

    def __init__(self, config: ExtensionConfig) -> None:
        self._config = config
        self._packed_clusters: dict[tuple[PoolName, PickerRef | None, AppProtocol], Any] = {}
        """Packed pool clusters by all that they depend on."""

    def route(
        self,
        route: route_components_pb2.Route,
        pools: Sequence[InferencePool],
        backends: Sequence[RuleBackend],
        third_party: Collection[ObjectName] = (),
    ) -> route_components_pb2.Route:
        """Returns the route with its traffic split over the pools' clusters, each with its picker.

        `pools`: the existing pools of the route's rule. `backends`: all backends of the rule. `third_party`: the
        Services of pickers of other projects."""
        route, problems = without_rejected_expressions(route)
        if problems:
            log.warning(
                "extension.rejected_expressions", route=shorten(route.name), problems=shorten("; ".join(problems))
            )
        if not pools or not route.HasField("route"):
            return route
        made = route_components_pb2.Route()
        made.CopyFrom(route)
        pool_of = split_to_pools(made.route, pools, backends or backends_of_deleted_rule(pools))
        for cluster, pool in sorted(pool_of.items()):
            picker = self.picker(pool)
            name = str(picker) if picker is not None else _NO_PICKER
            mode = pool.picker.body_mode if pool.picker and picker and picker.service in third_party else None
            made = with_ext_proc(made, {cluster: pool.name}, name, self._config.max_body_bytes, third_party=mode)
        return made

    def cluster(
        self, cluster: cluster_pb2.Cluster, pools: Sequence[InferencePool], backends: Sequence[RuleBackend]
    ) -> cluster_pb2.Cluster:
        """Returns the cluster with the clusters of its pools in its metadata. The parameters are those of `route`."""
        rule = RuleName.of_cluster(cluster.name)
        if rule is None or not pools:
            return cluster
        backends = backends or backends_of_deleted_rule(pools)
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
        """Returns the clusters, including those of pools and pickers, and the listeners. Listeners with a route to a
        pool get the filter. `with_keys`: whether the result may contain Envoy's private key."""
        routes = list(routes)
        pickers_by_routes = {configuration.name: pickers_of(configuration) for configuration in routes}
        by_model = {configuration.name for configuration in routes if routes_by_model(configuration)}
        all_clusters = _with_pools(clusters)
        for picker in sorted(set[PickerName]().union(*pickers_by_routes.values()), key=str):
            all_clusters[str(picker)] = self._picker_cluster(picker, with_keys)
        made: list[listener_pb2.Listener] = []
        for listener in listeners:
            names = set(route_configurations(listener))
            pickers = set[PickerName]().union(*(pickers_by_routes.get(name, ()) for name in names))
            if pickers:
                listener = self._with_filters(listener, min(map(str, pickers)))
            made.append(with_model_filter(listener, by_model) if names & by_model else listener)
        return list(all_clusters.values()), made

    def routes(
        self, listeners: Iterable[listener_pb2.Listener], routes: Iterable[route_pb2.RouteConfiguration]
    ) -> list[route_pb2.RouteConfiguration]:
        """Returns the route configurations, without an idle timeout on routes to pools. Envoy's default ends a silent
        stream after 5 minutes. A limit that the user sets on the route or the listener remains. Hosts that route by
        model get the routes for that."""
        limited = {name for listener in listeners for name in configurations_with_idle_timeout(listener)}
        unlimited = (
            configuration if configuration.name in limited else without_idle_timeouts(configuration)
            for configuration in routes
        )
        limit_bytes = self._config.max_body_bytes
        return [with_model_routing(configuration, self.declared, limit_bytes) for configuration in unlimited]

    def _with_filters(self, listener: listener_pb2.Listener, picker: str) -> listener_pb2.Listener:
        filters = [*third_party_filters(picker, self._config.max_body_bytes), inference_filter(picker)]
        return with_filters(listener, filters)

    def _packed_cluster(self, pool: InferencePool) -> Any:
        """Returns the pool's packed cluster. It is cached, because hundreds of rules may route to one pool."""
        key = pool.name, pool.picker, pool.app_protocol
        if key not in self._packed_clusters:
            self._packed_clusters[key] = pack_any(pool_cluster(pool, self._config.eds_target))
        return self._packed_clusters[key]

    def picker(self, pool: InferencePool) -> PickerName | None:
        """Returns the picker of a pool; None for a pool without one."""
        return PickerName(self.service(pool.picker.service), pool.picker.port) if pool.picker is not None else None

    def service(self, named: ObjectName) -> ObjectName:
        """Resolves the Service that a pool names: the shared picker for sharing namespaces."""
        shared = self._config.shared_picker
        if shared is None or named.name != shared.name or named.namespace not in self._config.sharing_namespaces:
            return named
        return shared

    def _picker_cluster(self, picker: PickerName, with_keys: bool) -> cluster_pb2.Cluster:
        cluster = eds_picker_cluster(picker, self._config.eds_target)
        if with_keys and self.picker_tls is not None and self.picker_tls.service == picker.service:
            host = f"{picker.service.name}.{picker.service.namespace}.svc.{self._config.cluster_domain}"
            # This socket applies to marked endpoints. Each is marked by itself, so that TLS can be switched under
            # traffic.
            cluster.transport_socket_matches[0].transport_socket.CopyFrom(transport_socket(self.picker_tls, host))
        return cluster


def _with_pools(clusters: Iterable[cluster_pb2.Cluster]) -> dict[str, cluster_pb2.Cluster]:
    """Returns the clusters, and those of the pools that they carry with their policies, by name."""
    made: dict[str, cluster_pb2.Cluster] = {}
    carried: dict[bytes, list[cluster_pb2.Cluster]] = {}
    for cluster in clusters:
        made[cluster.name] = cluster
        keys = sorted(key for key in cluster.metadata.typed_filter_metadata if key.startswith(_POOLS))
        if keys:
            stripped = made[cluster.name] = cluster_pb2.Cluster()
            stripped.CopyFrom(cluster)
        for key in keys:
            del made[cluster.name].metadata.typed_filter_metadata[key]
            carried.setdefault(cluster.metadata.typed_filter_metadata[key].value, []).append(cluster)
    for packed_pool, rules in carried.items():
        pool = with_policies(cluster_pb2.Cluster.FromString(packed_pool), rules)
        made[pool.name] = pool
    return made


__all__ = ["Extension", "ExtensionConfig", "RuleBackend", "RuleName", "rule_of_route"]
