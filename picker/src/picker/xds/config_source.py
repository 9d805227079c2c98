"""Sources of Envoy's dynamic configuration: files in a folder, or the picker's gRPC server."""

import json
from pathlib import Path

from envoy.config.core.v3 import config_source_pb2, grpc_service_pb2

from picker.xds.protobuf import duration

INITIAL_FETCH_TIMEOUT_S = 2.0
"""How long Envoy waits for the first configuration. A picker that starts together with Envoy is ready by then. Without
one, Envoy continues with no endpoints until the picker connects. Judgement."""

RECONNECT_BASE_S, RECONNECT_MAX_S = 0.1, 1.0
"""Backoff of reconnects after the picker's restart. gRPC's own maximum is two minutes, and it repeats a failed name
lookup only after 30 s."""

WAIT_FOR_CONNECTION = json.dumps({"methodConfig": [{"name": [{}], "waitForReady": True}]})
"""gRPC's service configuration: a new stream waits for the connection, which is tried every second. Without it, Envoy
reopens a failed stream after pauses of up to 30 s, with stale endpoints meanwhile. Envoy's `retry_policy` applies only
to its own gRPC client."""


def file_source(path: Path) -> config_source_pb2.ConfigSource:
    """Returns a source that reads a DiscoveryResponse from a file. Envoy reads the file again when a rename replaces
    it."""
    return config_source_pb2.ConfigSource(
        resource_api_version=config_source_pb2.V3,
        path_config_source=config_source_pb2.PathConfigSource(path=str(path)),
        initial_fetch_timeout=duration(INITIAL_FETCH_TIMEOUT_S),
    )


def grpc_source(target: str) -> config_source_pb2.ConfigSource:
    """Returns a source that reads from the gRPC xDS server at `target` (`host:port`).

    It uses Envoy's Google gRPC client. Envoy's own client needs a static cluster, which neither an extension of Envoy
    Gateway nor a file of clusters can define."""
    argument = grpc_service_pb2.GrpcService.GoogleGrpc.ChannelArgs
    milliseconds = {
        "grpc.initial_reconnect_backoff_ms": int(RECONNECT_BASE_S * 1000),
        "grpc.min_reconnect_backoff_ms": int(RECONNECT_BASE_S * 1000),
        "grpc.max_reconnect_backoff_ms": int(RECONNECT_MAX_S * 1000),
        "grpc.dns_min_time_between_resolutions_ms": int(RECONNECT_MAX_S * 1000),
    }
    arguments = {key: argument.Value(int_value=value) for key, value in milliseconds.items()}
    arguments["grpc.service_config"] = argument.Value(string_value=WAIT_FOR_CONNECTION)
    google = grpc_service_pb2.GrpcService.GoogleGrpc(
        target_uri=target, stat_prefix="endpoints", channel_args=argument(args=arguments)
    )
    return config_source_pb2.ConfigSource(
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=duration(INITIAL_FETCH_TIMEOUT_S),
        api_config_source=config_source_pb2.ApiConfigSource(
            api_type=config_source_pb2.ApiConfigSource.GRPC,
            transport_api_version=config_source_pb2.V3,
            grpc_services=[grpc_service_pb2.GrpcService(google_grpc=google)],
        ),
    )
