"""Envoy's own responses on routes to pools when a picker has failed, in OpenAI's error format.

Without them the body is empty, or `no healthy upstream`."""

from collections.abc import Iterable, Iterator

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from picker.extproc.error_response import REASON_HEADER, RETRY_AFTER_S
from picker.rejection import ERROR_TYPES
from picker.xds.clusters import POOL_CLUSTER_PREFIX
from picker.xds.local_replies import error_mapper

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
        headers = {REASON_HEADER: reason, "retry-after": str(RETRY_AFTER_S)}
        options = [
            _Option(
                header=base_pb2.HeaderValue(key=name, value=value), append_action=_Option.OVERWRITE_IF_EXISTS_OR_ADD
            )
            for name, value in headers.items()
        ]
        yield error_mapper(condition, ERROR_TYPES[503], reason, message, options)
