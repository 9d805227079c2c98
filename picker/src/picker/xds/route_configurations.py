"""Readers of Envoy Gateway's whole translation: which routes and listeners concern pools."""

from collections.abc import Iterable, Mapping

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.any_pb2 import Any

from picker.xds.picker_ref import PickerName
from picker.xds.protobuf import duration
from picker.xds.third_party_picker import PICKER_FILTERS


def pickers_of(configuration: route_pb2.RouteConfiguration) -> set[PickerName]:
    """Returns the pickers that a route configuration's routes use."""
    # Hundreds of routes share few pickers, so that equal overrides are parsed once.
    overrides_seen: set[bytes] = set()
    for host in configuration.virtual_hosts:
        for route in host.routes:
            overrides = [
                route.typed_per_filter_config,
                *(cluster.typed_per_filter_config for cluster in route.route.weighted_clusters.clusters),
            ]
            overrides_seen.update(value for override in overrides if (value := _picker_config(override)) is not None)
    names = (
        ext_proc_pb2.ExtProcPerRoute.FromString(override).overrides.grpc_service.envoy_grpc.cluster_name
        for override in overrides_seen
    )
    return {picker for name in names if (picker := PickerName.of_text(name)) is not None}


def without_idle_timeouts(configuration: route_pb2.RouteConfiguration) -> route_pb2.RouteConfiguration:
    """Returns the configuration with idle timeouts of 0 on routes to pools without one of their own. Returns the same
    object if there is no such route."""
    if not any(map(_lacks_idle_timeout, _routes_of(configuration))):
        return configuration
    result = route_pb2.RouteConfiguration()
    result.CopyFrom(configuration)
    for route in filter(_lacks_idle_timeout, _routes_of(result)):
        route.route.idle_timeout.CopyFrom(duration(0))
    return result


def _routes_of(configuration: route_pb2.RouteConfiguration) -> Iterable[route_components_pb2.Route]:
    return (route for host in configuration.virtual_hosts for route in host.routes)


def _lacks_idle_timeout(route: route_components_pb2.Route) -> bool:
    if not route.HasField("route") or route.route.HasField("idle_timeout"):
        return False
    weighted = route.route.weighted_clusters.clusters
    overrides = route.typed_per_filter_config, *(cluster.typed_per_filter_config for cluster in weighted)
    return any(_picker_config(override) is not None for override in overrides)


def _picker_config(overrides: Mapping[str, Any]) -> bytes | None:
    """Returns the configuration of the filter that asks a picker; None if none is enabled."""
    return next((overrides[name].value for name in PICKER_FILTERS if name in overrides), None)


def configurations_with_idle_timeout(listener: listener_pb2.Listener) -> Iterable[str]:
    """Returns the route configurations of the listener's filter chains that set a stream idle timeout."""
    return (manager.rds.route_config_name for manager in _managers(listener) if manager.HasField("stream_idle_timeout"))


def route_configurations(listener: listener_pb2.Listener) -> Iterable[str]:
    """Returns the route configurations of a listener's filter chains."""
    return (manager.rds.route_config_name for manager in _managers(listener))


def _managers(listener: listener_pb2.Listener) -> Iterable[hcm_pb2.HttpConnectionManager]:
    """Returns the connection managers of a listener's HTTP filter chains."""
    chains = [
        *listener.filter_chains,
        *([listener.default_filter_chain] if listener.HasField("default_filter_chain") else []),
    ]
    for chain in chains:
        for network_filter in chain.filters:
            if network_filter.typed_config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
                yield hcm_pb2.HttpConnectionManager.FromString(network_filter.typed_config.value)
