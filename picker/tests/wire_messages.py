"""Serialised ext_proc messages as Envoy sends them."""

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

_Mode = processing_mode_pb2.ProcessingMode


def headers_message(path: str = "/v1/chat/completions", mode: str = "BUFFERED", **more: str) -> bytes:
    """Returns a request's headers, with the filter's modes."""
    headers = {":method": "POST", ":path": path, **{key.replace("_", "-"): value for key, value in more.items()}}
    return pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(
            headers=base_pb2.HeaderMap(
                headers=[base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
            )
        ),
        protocol_config=pb.ProtocolConfiguration(request_body_mode=_Mode.BodySendMode.Value(mode)),
    ).SerializeToString()


def body_message(data: bytes, end: bool = True) -> bytes:
    """Returns a request's body, or a piece of it."""
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=end)).SerializeToString()
