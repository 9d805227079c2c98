"""Responses of Envoy itself on routes to pools, in OpenAI's error format.

Envoy answers some requests without a server: rule timeouts, rate limits, authentication. Its bodies are plain text,
which clients of OpenAI's API cannot read. Other routes keep them."""

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from picker.extproc.error_response import REASON_HEADER
from picker.rejection import ERROR_TYPES
from picker.xds.protobuf import pack_any

NAMESPACE = "inference-gateway"
"""Namespace of the metadata of routes to pools."""

CEL_FILTER = "envoy.access_loggers.extension_filters.cel"

_TO_POOL = f"xds.route_metadata.filter_metadata['{NAMESPACE}']['pool'] == true"

_PLAIN = (
    # A picker's own error has no details. The other two bodies are the user's and the authorization service's.
    "!(response.code_details in ['', 'direct_response'] || response.code_details.startsWith('ext_authz_denied'))"
    # A body becomes the message of a gRPC status.
    " && !('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc'))"
)


@dataclass(frozen=True, slots=True)
class _Reply:
    """The error of one status, or of a range."""

    codes: str
    """A condition on `response.code`."""
    error_type: str
    reason: str
    """The `code` of the error, and the header."""
    message: str


def _of_status(status: int, reason: str, message: str) -> _Reply:
    return _Reply(f"response.code == {status}", ERROR_TYPES[status], reason, message)


_REPLIES = (
    _of_status(401, "unauthorized", "The request has no valid credentials"),
    _of_status(403, "forbidden", "The request is not allowed"),
    _of_status(408, "request-timeout", "The request did not arrive in time"),
    _of_status(413, "body-too-large", "The request body is too large"),
    _of_status(429, "rate-limited", "Too many requests"),
    _of_status(503, "unavailable", "No model server could be reached"),
    _of_status(504, "response-timeout", "The model server did not respond in time"),
    _Reply("response.code >= 500", ERROR_TYPES[500], "gateway-error", "The gateway could not serve the request"),
    _Reply("response.code >= 400", ERROR_TYPES[400], "gateway-rejection", "The gateway rejected the request"),
)
"""The first that matches applies."""


def mark_route_to_pool(route: route_components_pb2.Route) -> None:
    """Marks `route` as one to a pool, for the filters of the replies."""
    route.metadata.filter_metadata[NAMESPACE].update({"pool": True})


def add_error_bodies(manager: hcm_pb2.HttpConnectionManager) -> None:
    """Adds the replies after those that exist. Existing ones of this function are replaced, so that it is
    idempotent."""
    mappers = manager.local_reply_config.mappers
    others = [mapper for mapper in mappers if not _is_own(mapper)]
    del mappers[:]
    mappers.extend([*others, *_MAPPERS])


def _is_own(mapper: hcm_pb2.ResponseMapper) -> bool:
    extension = mapper.filter.extension_filter
    if not extension.typed_config.Is(cel_pb2.ExpressionFilter.DESCRIPTOR):
        return False
    return cel_pb2.ExpressionFilter.FromString(extension.typed_config.value).expression.startswith(_TO_POOL)


def error_mapper(
    condition: str, error_type: str, reason: str, message: str, headers: Iterable[base_pb2.HeaderValueOption]
) -> hcm_pb2.ResponseMapper:
    """Returns a mapper of the responses for which the CEL expression `condition` is true, to an error in OpenAI's
    format. `message` may contain Envoy's command operators."""
    expression = cel_pb2.ExpressionFilter(expression=condition)
    body = {"error": {"message": message, "type": error_type, "param": None, "code": reason}}
    return hcm_pb2.ResponseMapper(
        filter=accesslog_pb2.AccessLogFilter(
            extension_filter=accesslog_pb2.ExtensionFilter(name=CEL_FILTER, typed_config=pack_any(expression))
        ),
        headers_to_add=headers,
        body_format_override=substitution_format_string_pb2.SubstitutionFormatString(
            json_format=ParseDict(body, Struct()), content_type="application/json"
        ),
    )


def _mapper(reply: _Reply) -> hcm_pb2.ResponseMapper:
    condition = f"{_TO_POOL} && {reply.codes} && {_PLAIN}"
    message = f"{reply.message} (%RESPONSE_CODE_DETAILS%)."
    header = base_pb2.HeaderValue(key=REASON_HEADER, value=reply.reason)
    return error_mapper(condition, reply.error_type, reply.reason, message, [base_pb2.HeaderValueOption(header=header)])


_MAPPERS = tuple(map(_mapper, _REPLIES))
