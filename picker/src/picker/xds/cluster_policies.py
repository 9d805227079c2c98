"""Connection policies of a pool's cluster, copied from the clusters of the rules that route to it.

Envoy Gateway applies a BackendTrafficPolicy to a rule's cluster, but requests to a pool use the pool's own cluster."""

from collections.abc import Sequence

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.extensions.load_balancing_policies.least_request.v3 import least_request_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from xds.type.v3 import typed_struct_pb2

from picker.xds.protobuf import duration, pack_any, uint32

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

DEFAULT_CONNECT_TIMEOUT = duration(10.0)
"""Envoy Gateway's connect timeout if no policy sets one (`tcpClusterPerConnectTimeout`)."""

DEFAULT_MAX_RETRIES = 1024
"""Envoy Gateway's `max_retries` of a cluster without a circuit breaker. Such a cluster sets no other limit."""

DEFAULT_BUFFER_BYTES = 32 << 10
"""Envoy Gateway's buffer limit (`tcpClusterPerConnectionBufferLimitBytes`)."""

_HttpOptions = http_protocol_options_pb2.HttpProtocolOptions
_Thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds


def with_policies(pool: cluster_pb2.Cluster, rules: Sequence[cluster_pb2.Cluster]) -> cluster_pb2.Cluster:
    """Returns `pool` with what `rules`, the clusters of the rules that route to it, set beyond Envoy Gateway's
    defaults.

    A pool has one cluster. For limits and timeouts the strictest rule applies, for all else the first rule by name."""
    made = cluster_pb2.Cluster()
    made.CopyFrom(pool)
    ordered = sorted(rules, key=lambda rule: rule.name)
    defaults = DEFAULT_CONNECT_TIMEOUT, Duration()
    connect_timeouts = [rule.connect_timeout for rule in ordered if rule.connect_timeout not in defaults]
    if connect_timeouts:
        made.connect_timeout.CopyFrom(min(connect_timeouts, key=Duration.ToNanoseconds))
    for rule in ordered:
        _limit(made.circuit_breakers, rule.circuit_breakers)
    # The last write wins, so the first rule by name is written last.
    for rule in reversed(ordered):
        _take_whole_fields(made, rule)
        _take_protocol(made, rule)
        _take_fallback(made, rule)
    return made


def _limit(made: circuit_breaker_pb2.CircuitBreakers, rule: circuit_breaker_pb2.CircuitBreakers) -> None:
    for theirs in rule.thresholds:
        if theirs == _Thresholds(priority=theirs.priority, max_retries=uint32(DEFAULT_MAX_RETRIES)):
            continue
        own = next((threshold for threshold in made.thresholds if threshold.priority == theirs.priority), None)
        if own is None:
            made.thresholds.append(theirs)
            continue
        for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries"):
            if theirs.HasField(name):
                limit = getattr(own, name)
                limit.value = min(limit.value, getattr(theirs, name).value)
    for theirs in rule.per_host_thresholds:
        if theirs not in made.per_host_thresholds:
            made.per_host_thresholds.append(theirs)


def _take_whole_fields(made: cluster_pb2.Cluster, rule: cluster_pb2.Cluster) -> None:
    for name in ("upstream_connection_options", "outlier_detection", "preconnect_policy", "track_cluster_stats"):
        if rule.HasField(name):
            getattr(made, name).CopyFrom(getattr(rule, name))
    if rule.per_connection_buffer_limit_bytes.value not in (0, DEFAULT_BUFFER_BYTES):
        made.per_connection_buffer_limit_bytes.CopyFrom(rule.per_connection_buffer_limit_bytes)
    if rule.health_checks:
        del made.health_checks[:]
        made.health_checks.extend(rule.health_checks)


def _take_protocol(made: cluster_pb2.Cluster, rule: cluster_pb2.Cluster) -> None:
    """Copies protocol options. The pool decides the protocol, and a policy for that protocol applies. The pool's idle
    timeout is an upper bound, because its model servers close idle connections."""
    if HTTP_OPTIONS not in rule.typed_extension_protocol_options:
        return
    theirs = _HttpOptions.FromString(rule.typed_extension_protocol_options[HTTP_OPTIONS].value)
    own = _HttpOptions.FromString(made.typed_extension_protocol_options[HTTP_OPTIONS].value)
    idle = own.common_http_protocol_options.idle_timeout.ToNanoseconds()
    own.common_http_protocol_options.MergeFrom(theirs.common_http_protocol_options)
    rule_idle = theirs.common_http_protocol_options.idle_timeout.ToNanoseconds()
    own.common_http_protocol_options.idle_timeout.FromNanoseconds(min(idle, rule_idle or idle))
    for name in ("http_protocol_options", "http2_protocol_options"):
        if own.explicit_http_config.HasField(name) and theirs.explicit_http_config.HasField(name):
            getattr(own.explicit_http_config, name).MergeFrom(getattr(theirs.explicit_http_config, name))
    made.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(pack_any(own))


def _take_fallback(made: cluster_pb2.Cluster, rule: cluster_pb2.Cluster) -> None:
    """Copies the load balancer as the fallback of a FailOpen pool. A FailClose pool has no fallback."""
    theirs = rule.load_balancing_policy
    [own] = made.load_balancing_policy.policies
    typed = typed_struct_pb2.TypedStruct.FromString(own.typed_extension_config.typed_config.value)
    fallback = str(typed.value["fallback_policy"])
    if not theirs.policies or "policies.subset" in fallback:
        return
    if theirs.policies[0].typed_extension_config.typed_config == pack_any(least_request_pb2.LeastRequest()):
        return
    typed.value.update({"fallback_policy": MessageToDict(theirs, preserving_proto_field_name=True)})
    own.typed_extension_config.typed_config.CopyFrom(pack_any(typed))
