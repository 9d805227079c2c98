"""Translates resources to Envoy's configuration.

The translation is pure: the same objects give the same bytes, so that an edit replaces only what it changes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2

from picker.resources.envoy_gateway import PolicyTimeout
from picker.resources.gateway_api import GROUP, Gateway, HTTPRoute, Listener
from picker.resources.objects import Resources
from picker.xds.clusters import picker_cluster, pool_cluster, service_cluster
from picker.xds.hostnames import common_hostname
from picker.xds.listeners import http_listener, with_inference_filter
from picker.xds.model_filter import with_model_filter
from picker.xds.model_names import DeclaredModels
from picker.xds.model_routes import routes_by_model, with_model_routing
from picker.xds.policies import ConnectionTimeouts, policy_timeouts
from picker.xds.routes import Backend, RankedRoute, routes

PICKER_CLUSTER = "inferencepool-picker"


@dataclass(frozen=True, slots=True)
class TranslateOptions:
    """Addresses and limits that the translation writes into Envoy's configuration."""

    listen_ip: str
    picker_host: str
    """IP address or name of the picker's ext_proc server."""
    picker_port: int
    eds_target: str
    """`host:port` of the picker's EDS server."""
    route_source: Callable[[str], config_source_pb2.ConfigSource]
    """Returns the source of the route configuration of a name."""
    max_body_bytes: int
    """Limit on the body of a request to a pool."""


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """The result of a translation, each kind ordered by name."""

    listeners: tuple[listener_pb2.Listener, ...]
    route_configurations: tuple[route_pb2.RouteConfiguration, ...]
    clusters: tuple[cluster_pb2.Cluster, ...]
    conflicts: tuple[str, ...]
    """Messages on listeners that are not served because of a conflict."""


@dataclass(frozen=True, slots=True)
class _Attached:
    """A route on a listener, under one of the host names that they have in common."""

    hostname: str
    ranked: RankedRoute
    policy: PolicyTimeout


def listener_name(gateway: Gateway, listener: Listener) -> str:
    """Returns the listener's name in Envoy Gateway, which is also that of its route configuration."""
    return f"{gateway.name}/{listener.name}"


def translate(resources: Resources, options: TranslateOptions) -> EnvoyConfig:
    """Returns all that Envoy needs to serve `resources`. Listeners on one port are merged, named after the first, as
    long as their host names differ."""
    listeners: list[listener_pb2.Listener] = []
    configurations: list[route_pb2.RouteConfiguration] = []
    conflicts: list[str] = []
    all_attached: list[_Attached] = []
    declared = DeclaredModels.of(resources)
    sections = [(gateway, listener) for gateway in resources.gateways for listener in gateway.spec.listeners]
    sections.sort(key=lambda section: section[1].port)
    for port, on_port in groupby(sections, key=lambda section: section[1].port):
        served = list(_without_conflicts(on_port, conflicts))
        name = listener_name(*served[0])
        attached = [route for section in served for route in _attached(*section, resources, options)]
        all_attached += attached
        made = http_listener(name, options.listen_ip, port, options.route_source(name))
        if any(backend.pool is not None for route in attached for backend in route.ranked.backends):
            made = with_inference_filter(made, PICKER_CLUSTER)
        configuration = route_pb2.RouteConfiguration(
            name=name, virtual_hosts=_virtual_hosts(name, attached), ignore_port_in_host_matching=True
        )
        if routes_by_model(configuration):
            made = with_model_filter(made, {name})
        listeners.append(made)
        configurations.append(with_model_routing(configuration, declared, options.max_body_bytes))
    return EnvoyConfig(
        tuple(sorted(listeners, key=lambda listener: listener.name)),
        tuple(sorted(configurations, key=lambda configuration: configuration.name)),
        _clusters(all_attached, resources, options),
        tuple(conflicts),
    )


def _without_conflicts(
    sections: Iterable[tuple[Gateway, Listener]], conflicts: list[str]
) -> Iterable[tuple[Gateway, Listener]]:
    """Yields the listeners of one port whose host name no earlier one has. Messages on the others are added to
    `conflicts`."""
    holders: dict[str | None, str] = {}
    for gateway, listener in sections:
        name = listener_name(gateway, listener)
        holder = holders.setdefault(listener.hostname, name)
        if holder is name:
            yield gateway, listener
            continue
        host = f" and host name {listener.hostname}" if listener.hostname else ""
        conflicts.append(f"listener {name}: port {listener.port}{host} is used by listener {holder}")


def _attached(
    gateway: Gateway, listener: Listener, resources: Resources, options: TranslateOptions
) -> Iterable[_Attached]:
    for http_route in resources.http_routes:
        if not _is_parent(http_route, gateway, listener):
            continue
        policy = policy_timeouts(http_route, gateway, listener.name, resources.traffic_policies)
        made = routes(http_route, resources, policy, PICKER_CLUSTER, options.max_body_bytes)
        for hostname in _hostnames(http_route, listener):
            for ranked in made:
                yield _Attached(hostname, ranked, policy)


def _is_parent(http_route: HTTPRoute, gateway: Gateway, listener: Listener) -> bool:
    if listener.allowed_routes.namespaces.from_ == "Same" and http_route.name.namespace != gateway.name.namespace:
        return False
    return any(
        parent.group == GROUP
        and http_route.parent(parent) == gateway.name
        and parent.section_name in (None, listener.name)
        and parent.port in (None, listener.port)
        for parent in http_route.spec.parent_refs
    )


def _hostnames(http_route: HTTPRoute, listener: Listener) -> Sequence[str]:
    """Returns the host names under which the route is served there; none if they have none in common."""
    if not http_route.spec.hostnames:
        return [listener.hostname or "*"]
    common = (common_hostname(hostname, listener.hostname) for hostname in http_route.spec.hostnames)
    return sorted({hostname for hostname in common if hostname is not None})


def _virtual_hosts(name: str, attached: Sequence[_Attached]) -> list[route_components_pb2.VirtualHost]:
    by_hostname: dict[str, list[RankedRoute]] = {}
    for route in attached:
        by_hostname.setdefault(route.hostname, []).append(route.ranked)
    return [
        route_components_pb2.VirtualHost(
            name=f"{name}/{hostname.replace('.', '_')}",
            domains=[hostname],
            routes=[ranked.route for ranked in sorted(by_hostname[hostname], key=lambda ranked: ranked.rank)],
        )
        for hostname in sorted(by_hostname)
    ]


def _clusters(
    attached: Iterable[_Attached], resources: Resources, options: TranslateOptions
) -> tuple[cluster_pb2.Cluster, ...]:
    """Returns a cluster for each backend of a route, and the picker's if a pool is among them."""
    policies: dict[Backend, list[PolicyTimeout]] = {}
    for route in attached:
        for backend in route.ranked.backends:
            # The weight belongs to the route, not to the cluster.
            policies.setdefault(replace(backend, weight=0), []).append(route.policy)
    made: dict[str, cluster_pb2.Cluster] = {}
    for backend, timeouts_of_routes in policies.items():
        timeouts = ConnectionTimeouts.shortest(timeouts_of_routes)
        if backend.pool is not None:
            made[backend.cluster] = pool_cluster(resources.pools[backend.pool], options.eds_target, timeouts)
            made[PICKER_CLUSTER] = picker_cluster(PICKER_CLUSTER, options.picker_host, options.picker_port)
        elif backend.service is not None:
            made[backend.cluster] = service_cluster(*backend.service, options.eds_target, timeouts)
    return tuple(made[name] for name in sorted(made))
