"""The parts of a route to a pool: the ext_proc filter, and retries on the next endpoint of the picker's list."""

from collections.abc import Mapping
from functools import lru_cache

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from google.protobuf.any_pb2 import Any

from picker.resources.names import PoolName
from picker.scheduling.scheduler import FALLBACKS
from picker.xds.ext_proc_filter import FILTER_NAME, filter_for_pool
from picker.xds.protobuf import duration, pack_any, uint32

RETRY_ON = "connect-failure,refused-stream,reset"
"""Retries apply if the endpoint is unreachable, refuses the stream, or resets before its response begins. A response
that has begun, or that is an error, is never retried: it is the model server's answer."""

RETRIES = 1
"""Default number of retries. A request that crashes its model server reaches two servers at most. Envoy counts connect
failures and resets together, so that more retries for the first expose more servers to the second. A
BackendTrafficPolicy may set more; Envoy tries at most the endpoints of the picker's list."""

RETRY_BASE_S, RETRY_MAX_S = 0.01, 0.1
"""Backoff between retries. The next one goes to another endpoint, so that it only has to spread a burst. Judgement."""

_Mode = processing_mode_pb2.ProcessingMode
_STREAMED = _Mode(
    request_header_mode=_Mode.SEND,
    request_body_mode=_Mode.FULL_DUPLEX_STREAMED,
    request_trailer_mode=_Mode.SEND,
    response_header_mode=_Mode.SEND,
    response_body_mode=_Mode.FULL_DUPLEX_STREAMED,
    response_trailer_mode=_Mode.SEND,
)
"""The processing mode of the endpoint picker protocol. Upstream's picker replies to request headers only after the
body, and reads responses too."""

SPARE_BODY_BYTES = 64 << 10
"""Bytes buffered beyond the picker's limit, so that the picker rejects a slightly too large body with its own error
text."""


def with_ext_proc(
    route: route_components_pb2.Route,
    pools: Mapping[str, PoolName],
    picker_cluster: str,
    max_body_bytes: int,
    *,
    streamed: bool = False,
) -> route_components_pb2.Route:
    """Returns `route` with the filter enabled for the clusters that are pools.

    `pools` maps cluster names, also weighted ones, to pools; each names its own pool to the picker. An existing timeout
    or retry policy remains; without a timeout the route gets none. `streamed`: for pickers that need upstream's
    streamed mode."""
    made = route_components_pb2.Route()
    made.CopyFrom(route)
    action = made.route
    leads_to_pool = False
    if action.WhichOneof("cluster_specifier") == "cluster" and action.cluster in pools:
        made.typed_per_filter_config[FILTER_NAME].CopyFrom(_override(pools[action.cluster], picker_cluster, streamed))
        leads_to_pool = True
    for weighted in action.weighted_clusters.clusters:
        if weighted.name in pools:
            override = _override(pools[weighted.name], picker_cluster, streamed)
            weighted.typed_per_filter_config[FILTER_NAME].CopyFrom(override)
            leads_to_pool = True
    if leads_to_pool:
        # The listener's limit, often 32 KiB, would answer 413 to most chats.
        made.request_body_buffer_limit.value = max_body_bytes + SPARE_BODY_BYTES
        if not action.HasField("timeout"):
            # Envoy's default is 15 s, and a long response takes minutes.
            action.timeout.CopyFrom(duration(0))
        if not action.HasField("retry_policy"):
            action.retry_policy.CopyFrom(next_endpoint_policy())
    return made


def next_endpoint_policy() -> route_components_pb2.RetryPolicy:
    """Returns a policy that retries on the next endpoint of the picker's list. After the last one, a FailOpen pool's
    fallback avoids those tried."""
    return route_components_pb2.RetryPolicy(
        retry_on=RETRY_ON,
        num_retries=uint32(RETRIES),
        retry_host_predicate=[
            route_components_pb2.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=pack_any(previous_hosts_pb2.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=FALLBACKS,
        retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(
            base_interval=duration(RETRY_BASE_S), max_interval=duration(RETRY_MAX_S)
        ),
    )


@lru_cache(maxsize=1024)
def _override(pool: PoolName, picker_cluster: str, streamed: bool) -> Any:
    """Returns the override shared by all routes to the pool; callers must not change it."""
    per_route = filter_for_pool(pool, picker_cluster)
    if streamed:
        per_route.overrides.processing_mode.CopyFrom(_STREAMED)
    return pack_any(per_route)
