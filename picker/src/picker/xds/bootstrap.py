"""The bootstrap configuration of a local Envoy; it reads listeners, routes and clusters from a folder."""

from pathlib import Path

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.overload.v3 import overload_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from google.protobuf import struct_pb2

from picker.xds.config_source import file_source
from picker.xds.protobuf import address, pack_any

BOOTSTRAP_FILE, CLUSTERS_FILE, LISTENERS_FILE = "bootstrap.json", "clusters.json", "listeners.json"

MAX_CONNECTIONS = 50_000
"""Limit on client connections. Envoy logs a warning without one. Judgement: its file descriptors end not far beyond."""


MAX_PROGRAM_SIZE = 2**32 - 1
"""Limit on the RE2 program size of a regular expression: effectively none, as in Envoy Gateway. Envoy's default of 100
rejects `a{100}`, and with it the whole route configuration. RE2's own limit of 8 MiB per expression still applies
(`resources.expressions`)."""


def routes_file(name: str) -> str:
    """Returns the file name of the route configuration `name`."""
    return f"routes-{name.replace('/', '_')}.json"


def bootstrap(admin_ip: str, admin_port: int, folder: Path) -> bootstrap_pb2.Bootstrap:
    """Returns the bootstrap. `folder` must hold CLUSTERS_FILE and LISTENERS_FILE when Envoy starts."""
    connections = downstream_connections_pb2.DownstreamConnectionsConfig(
        max_active_downstream_connections=MAX_CONNECTIONS
    )
    return bootstrap_pb2.Bootstrap(
        # Envoy sends this node in its requests to the EDS server.
        node=base_pb2.Node(id="standalone", cluster="inference-gateway"),
        admin=bootstrap_pb2.Admin(address=address(admin_ip, admin_port)),
        dynamic_resources=bootstrap_pb2.Bootstrap.DynamicResources(
            cds_config=file_source(folder / CLUSTERS_FILE), lds_config=file_source(folder / LISTENERS_FILE)
        ),
        layered_runtime=bootstrap_pb2.LayeredRuntime(
            layers=[bootstrap_pb2.RuntimeLayer(name="standalone", static_layer=_runtime())]
        ),
        overload_manager=overload_pb2.OverloadManager(
            resource_monitors=[
                overload_pb2.ResourceMonitor(
                    name="envoy.resource_monitors.global_downstream_max_connections", typed_config=pack_any(connections)
                )
            ]
        ),
    )


def _runtime() -> struct_pb2.Struct:
    runtime = struct_pb2.Struct()
    runtime.update({"re2.max_program_size.error_level": MAX_PROGRAM_SIZE})
    return runtime
