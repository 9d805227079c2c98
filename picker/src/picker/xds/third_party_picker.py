"""Envoy's filters for the pickers of other projects, and the configuration that enables them on a route.

A picker of the endpoint picker protocol replies to the headers only after the body, which it streams back
(FULL_DUPLEX_STREAMED). Envoy then keeps no copy of the body: once it has sent the first part, a failure of the picker
is a 503, regardless of the failure mode.

In the buffered mode Envoy sends the headers and, without waiting for the reply, the whole body in one message. It keeps
the body, so that every failure is subject to the failure mode. A picker that streams the body back is used for its
pick, and not asked again: Envoy rejects its next message and forwards the body unchanged."""

from collections.abc import Mapping

from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.any_pb2 import Any

from picker.resources.inference import PickerBodyMode
from picker.resources.names import PoolName
from picker.xds.ext_proc_filter import FILTER_NAME, external_processor, filter_for_pool
from picker.xds.protobuf import pack_any, uint32

BUFFERED_FILTER_NAME = f"{FILTER_NAME}_buffered"
BUFFER_FILTER_NAME = "envoy.filters.http.buffer.inference_pool"
PICKER_FILTERS = (FILTER_NAME, BUFFERED_FILTER_NAME)
"""The filters that ask a picker. A route to a pool enables one of them."""

_Mode = processing_mode_pb2.ProcessingMode
_DUPLEX = _Mode(
    request_header_mode=_Mode.SEND,
    request_body_mode=_Mode.FULL_DUPLEX_STREAMED,
    request_trailer_mode=_Mode.SEND,
    response_header_mode=_Mode.SEND,
    response_body_mode=_Mode.FULL_DUPLEX_STREAMED,
    response_trailer_mode=_Mode.SEND,
)
"""The processing mode of the endpoint picker protocol. Upstream's picker reads responses, too."""

_BUFFERED = _Mode(
    request_header_mode=_Mode.SEND,
    # With the buffer filter before it, one message. Envoy's BUFFERED waits for the reply to the headers first.
    request_body_mode=_Mode.STREAMED,
    request_trailer_mode=_Mode.SKIP,
    response_header_mode=_Mode.SEND,
    response_body_mode=_Mode.NONE,
    response_trailer_mode=_Mode.SKIP,
)


def third_party_filters(picker_cluster: str, max_body_bytes: int) -> list[hcm_pb2.HttpFilter]:
    """Returns the filters of the buffered mode, disabled, in their order. The parameters are only defaults."""
    processor = external_processor(picker_cluster)
    processor.processing_mode.CopyFrom(_BUFFERED)
    processor.allow_mode_override = False
    processor.send_body_without_waiting_for_header_response = True
    return [
        hcm_pb2.HttpFilter(name=BUFFER_FILTER_NAME, disabled=True, typed_config=pack_any(_buffer(max_body_bytes))),
        hcm_pb2.HttpFilter(name=BUFFERED_FILTER_NAME, disabled=True, typed_config=pack_any(processor)),
    ]


def third_party_overrides(
    pool: PoolName, picker_cluster: str, mode: PickerBodyMode, max_body_bytes: int
) -> Mapping[str, Any]:
    """Returns the configuration of a route to `pool`, by filter."""
    per_route = filter_for_pool(pool, picker_cluster)
    if mode is PickerBodyMode.DUPLEX:
        per_route.overrides.processing_mode.CopyFrom(_DUPLEX)
        return {FILTER_NAME: pack_any(per_route)}
    return {
        BUFFER_FILTER_NAME: pack_any(buffer_pb2.BufferPerRoute(buffer=_buffer(max_body_bytes))),
        BUFFERED_FILTER_NAME: pack_any(per_route),
    }


def _buffer(max_body_bytes: int) -> buffer_pb2.Buffer:
    return buffer_pb2.Buffer(max_request_bytes=uint32(max_body_bytes))
