"""What the routes and listeners of Envoy Gateway's whole translation say of pools."""

from collections.abc import Iterable

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from picker.xds.ext_proc_filter import FILTER_NAME
from picker.xds.picker_ref import PickerName
from picker.xds.protobuf import duration


def pickers_of(configuration: route_pb2.RouteConfiguration) -> set[PickerName]:
    """The pickers that a route configuration's routes ask."""
    # Hundreds of routes say the same of few pickers.
    said: set[bytes] = set()
    for host in configuration.virtual_hosts:
        for route in host.routes:
            overrides = [
                route.typed_per_filter_config,
                *(each.typed_per_filter_config for each in route.route.weighted_clusters.clusters),
            ]
            for override in overrides:
                if FILTER_NAME in override:
                    said.add(override[FILTER_NAME].value)
    names = (
        ext_proc_pb2.ExtProcPerRoute.FromString(each).overrides.grpc_service.envoy_grpc.cluster_name for each in said
    )
    return {picker for name in names if (picker := PickerName.of_text(name)) is not None}


def without_idle_timeouts(configuration: route_pb2.RouteConfiguration) -> route_pb2.RouteConfiguration:
    """The configuration itself where it has no route to a pool that says nothing of its own."""
    if not any(map(_lacks_idle_timeout, _routes_of(configuration))):
        return configuration
    made = route_pb2.RouteConfiguration()
    made.CopyFrom(configuration)
    for route in filter(_lacks_idle_timeout, _routes_of(made)):
        route.route.idle_timeout.CopyFrom(duration(0))
    return made


def _routes_of(configuration: route_pb2.RouteConfiguration) -> Iterable[route_components_pb2.Route]:
    return (route for host in configuration.virtual_hosts for route in host.routes)


def _lacks_idle_timeout(route: route_components_pb2.Route) -> bool:
    if not route.HasField("route") or route.route.HasField("idle_timeout"):
        return False
    weighted = route.route.weighted_clusters.clusters
    return FILTER_NAME in route.typed_per_filter_config or any(
        FILTER_NAME in each.typed_per_filter_config for each in weighted
    )


def with_idle_timeout(listener: listener_pb2.Listener) -> Iterable[str]:
    """The route configurations of those of a listener's filter chains that limit how long a stream is silent."""
    return (each.rds.route_config_name for each in _managers(listener) if each.HasField("stream_idle_timeout"))


def route_configurations(listener: listener_pb2.Listener) -> Iterable[str]:
    """The route configurations that a listener's filter chains use."""
    return (each.rds.route_config_name for each in _managers(listener))


def _managers(listener: listener_pb2.Listener) -> Iterable[hcm_pb2.HttpConnectionManager]:
    """Of a listener's filter chains that speak HTTP."""
    chains = [
        *listener.filter_chains,
        *([listener.default_filter_chain] if listener.HasField("default_filter_chain") else []),
    ]
    for chain in chains:
        for each in chain.filters:
            if each.typed_config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
                yield hcm_pb2.HttpConnectionManager.FromString(each.typed_config.value)
