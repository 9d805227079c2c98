"""The parts of a route to a pool: the ext_proc filter, and retries on the next endpoint of the picker's list."""

from collections.abc import Mapping
from functools import lru_cache

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from google.protobuf.any_pb2 import Any

from picker.resources.inference import PickerBodyMode
from picker.resources.names import PoolName
from picker.scheduling.scheduler import FALLBACKS
from picker.xds.ext_proc_filter import FILTER_NAME, filter_for_pool
from picker.xds.local_replies import mark_route_to_pool
from picker.xds.protobuf import duration, pack_any, uint32
from picker.xds.third_party_picker import third_party_overrides

RETRY_ON = "connect-failure,refused-stream,reset"
"""Retries apply if the endpoint is unreachable, refuses the stream, or resets before its response begins. A response
that has begun, or that is an error, is never retried: it is the model server's answer."""

RETRIES = 1
"""Default number of retries. A request that crashes its model server reaches two servers at most. Envoy counts connect
failures and resets together, so that more retries for the first expose more servers to the second. A
BackendTrafficPolicy may set more; Envoy tries at most the endpoints of the picker's list."""

RETRY_BASE_S, RETRY_MAX_S = 0.01, 0.1
"""Backoff between retries. The next one goes to another endpoint, so that it only has to spread a burst. Judgement."""

SPARE_BODY_BYTES = 64 << 10
"""Bytes buffered beyond the picker's limit, so that the picker rejects a slightly too large body with its own error
text."""


def with_ext_proc(
    route: route_components_pb2.Route,
    pools: Mapping[str, PoolName],
    picker_cluster: str,
    max_body_bytes: int,
    *,
    third_party: PickerBodyMode | None = None,
) -> route_components_pb2.Route:
    """Returns `route` with the filter enabled for the clusters that are pools.

    `pools` maps cluster names, also weighted ones, to pools; each names its own pool to the picker. An existing timeout
    or retry policy remains; without a timeout the route gets none. `third_party`: the mode of a picker of another
    project; None for this project's."""
    made = route_components_pb2.Route()
    made.CopyFrom(route)
    action = made.route
    buffer_bytes = max_body_bytes + SPARE_BODY_BYTES
    targets = [(weighted.name, weighted.typed_per_filter_config) for weighted in action.weighted_clusters.clusters]
    if action.WhichOneof("cluster_specifier") == "cluster":
        targets.append((action.cluster, made.typed_per_filter_config))
    leads_to_pool = False
    for cluster, configs in targets:
        if cluster not in pools:
            continue
        leads_to_pool = True
        for name, config in _overrides(pools[cluster], picker_cluster, third_party, buffer_bytes).items():
            configs[name].CopyFrom(config)
    if leads_to_pool:
        mark_route_to_pool(made)
        # The listener's limit, often 32 KiB, would answer 413 to most chats.
        made.request_body_buffer_limit.value = buffer_bytes
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
def _overrides(
    pool: PoolName, picker_cluster: str, third_party: PickerBodyMode | None, buffer_bytes: int
) -> Mapping[str, Any]:
    """Returns the configuration by filter, which all routes to the pool share; callers must not change it."""
    if third_party is not None:
        return third_party_overrides(pool, picker_cluster, third_party, buffer_bytes)
    return {FILTER_NAME: pack_any(filter_for_pool(pool, picker_cluster))}
