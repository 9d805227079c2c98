"""The functions that add the ext_proc filter to existing listeners and routes."""

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from picker.resources.names import PoolName
from picker.xds.ext_proc_filter import FILTER_NAME
from picker.xds.listeners import ROUTER_NAME, with_inference_filter
from picker.xds.pool_route import with_ext_proc
from picker.xds.protobuf import duration, pack_any

POOL = PoolName("inference.networking.k8s.io", "default", "p")
CLUSTER = "httproute/default/r/rule/0"


def http_chain(*filters: str) -> listener_components_pb2.FilterChain:
    manager = hcm_pb2.HttpConnectionManager(http_filters=[hcm_pb2.HttpFilter(name=name) for name in filters])
    return listener_components_pb2.FilterChain(
        filters=[listener_components_pb2.Filter(name="hcm", typed_config=pack_any(manager))]
    )


def names(chain: listener_components_pb2.FilterChain) -> list[str]:
    manager = hcm_pb2.HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
    return [http_filter.name for http_filter in manager.http_filters]


def test_filter_is_inserted_once_before_the_router() -> None:
    listener = listener_pb2.Listener(
        filter_chains=[http_chain("cors", ROUTER_NAME), http_chain(ROUTER_NAME)],
        default_filter_chain=http_chain("rbac", ROUTER_NAME),
    )
    made = with_inference_filter(listener, "picker")
    assert [names(chain) for chain in (*made.filter_chains, made.default_filter_chain)] == [
        ["cors", FILTER_NAME, ROUTER_NAME],
        [FILTER_NAME, ROUTER_NAME],
        ["rbac", FILTER_NAME, ROUTER_NAME],
    ]
    assert names(listener.filter_chains[0]) == ["cors", ROUTER_NAME], "the argument is unchanged"
    assert with_inference_filter(made, "picker").SerializeToString() == made.SerializeToString()


def test_chain_without_http_is_unchanged() -> None:
    tcp = listener_components_pb2.FilterChain(filters=[listener_components_pb2.Filter(name="tcp")])
    listener = listener_pb2.Listener(filter_chains=[tcp])
    assert with_inference_filter(listener, "picker") == listener


def test_route_to_a_pool_gets_the_filter_idempotently() -> None:
    route = route_components_pb2.Route(name="x", route=route_components_pb2.RouteAction(cluster=CLUSTER))
    made = with_ext_proc(route, {CLUSTER: POOL}, "picker", 1 << 20)
    assert str(POOL).encode() in made.typed_per_filter_config[FILTER_NAME].value
    assert made.route.retry_policy.num_retries.value > 0
    assert not route.typed_per_filter_config
    assert with_ext_proc(made, {CLUSTER: POOL}, "picker", 1 << 20) == made


def test_route_to_other_clusters_is_unchanged() -> None:
    route = route_components_pb2.Route(name="x", route=route_components_pb2.RouteAction(cluster="other"))
    assert with_ext_proc(route, {CLUSTER: POOL}, "picker", 1 << 20) == route


def test_existing_retry_policy_remains() -> None:
    own = route_components_pb2.RetryPolicy(retry_on="5xx")
    route = route_components_pb2.Route(route=route_components_pb2.RouteAction(cluster=CLUSTER, retry_policy=own))
    assert with_ext_proc(route, {CLUSTER: POOL}, "picker", 1 << 20).route.retry_policy == own


def test_route_to_a_pool_has_no_default_timeout() -> None:
    """Envoy's default of 15 s would cut off long responses."""
    route = route_components_pb2.Route(route=route_components_pb2.RouteAction(cluster=CLUSTER))
    made = with_ext_proc(route, {CLUSTER: POOL}, "picker", 1 << 20)
    assert made.route.HasField("timeout")
    assert made.route.timeout == duration(0)


def test_existing_timeout_remains() -> None:
    own = route_components_pb2.RouteAction(cluster=CLUSTER, timeout=duration(7))
    made = with_ext_proc(route_components_pb2.Route(route=own), {CLUSTER: POOL}, "picker", 1 << 20)
    assert made.route.timeout == duration(7)


def test_only_weighted_clusters_of_pools_get_the_filter() -> None:
    route = route_components_pb2.Route()
    for name in (CLUSTER, "other"):
        route.route.weighted_clusters.clusters.add(name=name)
    made = with_ext_proc(route, {CLUSTER: POOL}, "picker", 1 << 20)
    has_filter = {
        cluster.name: FILTER_NAME in cluster.typed_per_filter_config
        for cluster in made.route.weighted_clusters.clusters
    }
    assert has_filter == {CLUSTER: True, "other": False}
    assert FILTER_NAME not in made.typed_per_filter_config
