"""A real Envoy with a configuration that a test composes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from e2e.processes import free_ports
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.json_format import MessageToJson
from picker.commands.standalone.children import Child
from picker.commands.standalone.envoy_process import EnvoyAdmin, envoy_binary, envoy_command
from picker.xds.protobuf import address, pack_any


@asynccontextmanager
async def running_envoy(
    listener: listener_pb2.Listener,
    routes: route_pb2.RouteConfiguration,
    clusters: Iterable[cluster_pb2.Cluster],
    folder: Path,
) -> AsyncIterator[None]:
    """Runs Envoy with `routes` in the only filter of `listener`, until the end of the context."""
    [admin_port] = free_ports(1)
    bootstrap = bootstrap_pb2.Bootstrap()
    bootstrap.admin.address.CopyFrom(address("127.0.0.1", admin_port))
    bootstrap.static_resources.clusters.extend(clusters)
    bootstrap.static_resources.listeners.append(_with_routes(listener, routes))
    file = folder / "bootstrap.json"
    file.write_text(MessageToJson(bootstrap))
    envoy = await Child.start("Envoy", envoy_command(envoy_binary(None), file, 1, "info"), {})
    try:
        admin = EnvoyAdmin(f"127.0.0.1:{admin_port}")
        async with asyncio.timeout(20):
            while not await admin.is_ready():
                assert envoy.process.returncode is None, "Envoy has exited"
                await asyncio.sleep(0.02)
        yield
    finally:
        await envoy.stop(3.0)


def with_endpoints(cluster: cluster_pb2.Cluster, *ports: int) -> cluster_pb2.Cluster:
    """Returns an EDS cluster with these endpoints on 127.0.0.1 in place of those of an EDS server."""
    made = cluster_pb2.Cluster()
    made.CopyFrom(cluster)
    made.type = cluster_pb2.Cluster.STATIC
    made.ClearField("eds_cluster_config")
    made.load_assignment.cluster_name = cluster.name
    endpoints = made.load_assignment.endpoints.add()
    for port in ports:
        endpoints.lb_endpoints.add().endpoint.address.CopyFrom(address("127.0.0.1", port))
    return made


def _with_routes(listener: listener_pb2.Listener, routes: route_pb2.RouteConfiguration) -> listener_pb2.Listener:
    made = listener_pb2.Listener()
    made.CopyFrom(listener)
    packed = made.filter_chains[0].filters[0].typed_config
    manager = hcm_pb2.HttpConnectionManager.FromString(packed.value)
    manager.route_config.CopyFrom(routes)
    packed.CopyFrom(pack_any(manager))
    return made
