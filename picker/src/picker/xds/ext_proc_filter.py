"""The filter through which Envoy asks the picker: in a listener once, switched on by the routes that lead to a pool."""

from envoy.config.core.v3 import base_pb2, grpc_service_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2, processing_mode_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from picker.protocol import LB_NAMESPACE, POOL_METADATA, SUBSET_NAMESPACE
from picker.resources.names import PoolName
from picker.xds.protobuf import duration, pack_any

FILTER_NAME = "envoy.filters.http.ext_proc.inference_pool"
"""Not the filter's plain name: an Envoy Gateway may have ext_proc filters of its own in the same listener."""


MESSAGE_TIMEOUT_S = 5.0
"""For one answer of the picker, not for the body to arrive. A pick takes under a millisecond; an answer that has not
come after thousands of those is not coming."""

MAX_MESSAGE_TIMEOUT_S = 300.0
"""What a picker that holds a request back on purpose may stretch the timeout to (`override_message_timeout`)."""

_Mode = processing_mode_pb2.ProcessingMode

PROCESSING_MODE = _Mode(
    request_header_mode=_Mode.SEND,
    # Not full duplex: that fails closed with the picker gone, whatever the pool says, and costs half the throughput.
    request_body_mode=_Mode.BUFFERED,
    # How an answer begins, and the answer itself, the picker asks for where it needs them (`mode_override`). Unasked
    # they would cost every client a round trip and the picker an eighth of its CPU.
    response_header_mode=_Mode.SKIP,
    response_body_mode=_Mode.NONE,
    request_trailer_mode=_Mode.SKIP,
    # Keeps the exchange open until the response has ended or the client has gone, at no message: this is how the
    # picker knows what is in flight.
    response_trailer_mode=_Mode.SEND,
)


def inference_filter(picker_cluster: str) -> hcm_pb2.HttpFilter:
    """The filter, off. `picker_cluster` is only a default; every route that switches it on names its own."""
    processor = ext_proc_pb2.ExternalProcessor(
        grpc_service=_grpc_service(picker_cluster),
        processing_mode=PROCESSING_MODE,
        allow_mode_override=True,
        message_timeout=duration(MESSAGE_TIMEOUT_S),
        max_message_timeout=duration(MAX_MESSAGE_TIMEOUT_S),
        metadata_options=ext_proc_pb2.MetadataOptions(
            # Out: which endpoints the request is limited to, and which one served it.
            forwarding_namespaces=ext_proc_pb2.MetadataOptions.MetadataNamespaces(
                untyped=[LB_NAMESPACE, SUBSET_NAMESPACE]
            ),
            # In: the pick.
            receiving_namespaces=ext_proc_pb2.MetadataOptions.MetadataNamespaces(untyped=[LB_NAMESPACE]),
        ),
        # Cleared, the route would be looked up again, and a weighted one would fall to another pool than the pick's.
        route_cache_action=ext_proc_pb2.ExternalProcessor.RETAIN,
        # What is wrong with the picker is not the client's fault, and passes.
        status_on_error=http_status_pb2.HttpStatus(code=http_status_pb2.ServiceUnavailable),
        stat_prefix="inference_pool",
    )
    return hcm_pb2.HttpFilter(name=FILTER_NAME, disabled=True, typed_config=pack_any(processor))


def filter_for_pool(pool: PoolName, picker_cluster: str) -> ext_proc_pb2.ExtProcPerRoute:
    """What switches the filter on for a route, or for one weighted cluster of a route, that leads to `pool`.

    An unreachable picker is always let pass here, FailClose or not. Envoy's own way to fail closed also cuts off every
    answer that is on its way when the picker goes. A FailClose pool fails closed in its cluster instead: without a
    pick that has no endpoint to give (`clusters.pool_cluster`)."""
    return ext_proc_pb2.ExtProcPerRoute(
        overrides=ext_proc_pb2.ExtProcOverrides(
            grpc_service=_grpc_service(picker_cluster),
            grpc_initial_metadata=[base_pb2.HeaderValue(key=POOL_METADATA, value=str(pool))],
            failure_mode_allow=BoolValue(value=True),
        )
    )


def _grpc_service(cluster: str) -> grpc_service_pb2.GrpcService:
    return grpc_service_pb2.GrpcService(envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster))
