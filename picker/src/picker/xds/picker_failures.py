"""Envoy's own responses on routes to pools when a picker has failed, in OpenAI's error format.

Without them the body is empty, or `no healthy upstream`."""

from collections.abc import Iterable, Iterator

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from picker.extproc.error_response import REASON_HEADER, RETRY_AFTER_S
from picker.xds.clusters import POOL_CLUSTER_PREFIX
from picker.xds.protobuf import pack_any

_Option = base_pb2.HeaderValueOption

_TO_POOL = f"xds.cluster_name.startsWith('{POOL_CLUSTER_PREFIX}') && response.code == 503"

_REPLIES = (
    (
        "picker-failed",
        # Envoy's details of a stream that failed, and of a reply that the protocol does not allow at that point.
        f"{_TO_POOL} && (response.code_details.startsWith('ext_proc_error') "
        "|| response.code_details.startsWith('spurious_message'))",
        "The pool's endpoint picker failed after Envoy had sent it the request's body (%RESPONSE_CODE_DETAILS%).",
    ),
    (
        "no-endpoint",
        f"{_TO_POOL} && response.code_details == 'no_healthy_upstream'",
        "The pool has no endpoint for this request. Its failureMode is FailClose and its endpoint picker failed, or "
        "the picked endpoints are not ready.",
    ),
)
"""Reason, condition and message of each response."""


def with_picker_failures(
    mappers: Iterable[hcm_pb2.ResponseMapper],
) -> list[hcm_pb2.ResponseMapper]:
    """Returns `mappers` with those of picker failures behind them, each once. Envoy applies the first that matches."""
    own = list(_mappers())
    return [*(mapper for mapper in mappers if mapper not in own), *own]


def _mappers() -> Iterator[hcm_pb2.ResponseMapper]:
    for reason, condition, message in _REPLIES:
        error = {"message": message, "type": "service_unavailable_error", "param": None, "code": reason}
        body = substitution_format_string_pb2.SubstitutionFormatString(content_type="application/json")
        body.json_format.update({"error": error})
        headers = {REASON_HEADER: reason, "retry-after": str(RETRY_AFTER_S)}
        yield hcm_pb2.ResponseMapper(
            filter=accesslog_pb2.AccessLogFilter(
                extension_filter=accesslog_pb2.ExtensionFilter(
                    name="envoy.access_loggers.extension_filters.cel",
                    typed_config=pack_any(cel_pb2.ExpressionFilter(expression=condition)),
                )
            ),
            body_format_override=body,
            headers_to_add=[
                _Option(
                    header=base_pb2.HeaderValue(key=name, value=value), append_action=_Option.OVERWRITE_IF_EXISTS_OR_ADD
                )
                for name, value in headers.items()
            ],
        )
