"""The ext_proc filter: once in a listener, and enabled by the routes to a pool."""

from envoy.config.core.v3 import base_pb2, grpc_service_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2, processing_mode_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from picker.protocol import LB_NAMESPACE, POOL_METADATA, SUBSET_NAMESPACE
from picker.resources.names import PoolName
from picker.xds.protobuf import duration, pack_any

FILTER_NAME = "envoy.filters.http.ext_proc.inference_pool"
"""Not the filter's plain name: Envoy Gateway may add ext_proc filters of its own to the same listener."""


MESSAGE_TIMEOUT_S = 5.0
"""Limit for one reply of the picker, not for the arrival of the body. Judgement: a pick takes under a millisecond."""

MAX_MESSAGE_TIMEOUT_S = 300.0
"""Upper bound of the timeout when the picker queues a request (`override_message_timeout`)."""

_Mode = processing_mode_pb2.ProcessingMode

PROCESSING_MODE = _Mode(
    request_header_mode=_Mode.SEND,
    # Not full duplex: that mode fails closed without the picker regardless of the pool, and costs half the throughput.
    request_body_mode=_Mode.BUFFERED,
    # The picker requests response headers and bodies where it needs them (`mode_override`). Always sending them would
    # cost every client a round trip and the picker an eighth of its CPU.
    response_header_mode=_Mode.SKIP,
    response_body_mode=_Mode.NONE,
    request_trailer_mode=_Mode.SKIP,
    # Keeps the exchange open until the response ends or the client disconnects, without a message. The picker counts
    # requests in flight by it.
    response_trailer_mode=_Mode.SEND,
)


def inference_filter(picker_cluster: str) -> hcm_pb2.HttpFilter:
    """Returns the filter, disabled. `picker_cluster` is only a default; each route that enables it sets its own."""
    return hcm_pb2.HttpFilter(
        name=FILTER_NAME, disabled=True, typed_config=pack_any(external_processor(picker_cluster))
    )


def external_processor(picker_cluster: str) -> ext_proc_pb2.ExternalProcessor:
    """Returns the filter's configuration for this project's pickers."""
    return ext_proc_pb2.ExternalProcessor(
        grpc_service=_grpc_service(picker_cluster),
        processing_mode=PROCESSING_MODE,
        allow_mode_override=True,
        message_timeout=duration(MESSAGE_TIMEOUT_S),
        max_message_timeout=duration(MAX_MESSAGE_TIMEOUT_S),
        metadata_options=ext_proc_pb2.MetadataOptions(
            # To the picker: the endpoints that the request is limited to, and the one that answered.
            forwarding_namespaces=ext_proc_pb2.MetadataOptions.MetadataNamespaces(
                untyped=[LB_NAMESPACE, SUBSET_NAMESPACE]
            ),
            # From the picker: the pick.
            receiving_namespaces=ext_proc_pb2.MetadataOptions.MetadataNamespaces(untyped=[LB_NAMESPACE]),
        ),
        # If the route cache were cleared, Envoy would select a route again, and a weighted one might lead to another
        # pool.
        route_cache_action=ext_proc_pb2.ExternalProcessor.RETAIN,
        # An error of the picker is temporary and not the client's fault, hence 503.
        status_on_error=http_status_pb2.HttpStatus(code=http_status_pb2.ServiceUnavailable),
        stat_prefix="inference_pool",
    )


def filter_for_pool(pool: PoolName, picker_cluster: str) -> ext_proc_pb2.ExtProcPerRoute:
    """Returns the config that enables the filter for a route, or for one weighted cluster of a route, to `pool`.

    An unreachable picker is always allowed here, also for FailClose. Envoy's own fail-closed mode would also cut off
    every response in progress when the picker stops. A FailClose pool fails closed in its cluster: without a pick it
    has no endpoint (`clusters.pool_cluster`)."""
    return ext_proc_pb2.ExtProcPerRoute(
        overrides=ext_proc_pb2.ExtProcOverrides(
            grpc_service=_grpc_service(picker_cluster),
            grpc_initial_metadata=[base_pb2.HeaderValue(key=POOL_METADATA, value=str(pool))],
            failure_mode_allow=BoolValue(value=True),
        )
    )


def _grpc_service(cluster: str) -> grpc_service_pb2.GrpcService:
    return grpc_service_pb2.GrpcService(envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster))
