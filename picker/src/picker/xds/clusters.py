"""Envoy's clusters: the endpoints of a pool, those of a Service, and the picker."""

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import address_pb2, extension_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.load_balancing_policies.least_request.v3 import least_request_pb2
from envoy.extensions.load_balancing_policies.override_host.v3 import override_host_pb2
from envoy.extensions.load_balancing_policies.subset.v3 import subset_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.metadata.v3 import metadata_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from xds.type.v3 import typed_struct_pb2

from picker.endpoints.datastore import service_key
from picker.protocol import DESTINATION, DESTINATION_SERVED, LB_NAMESPACE
from picker.resources.inference import AppProtocol, FailureMode, InferencePool
from picker.resources.names import ObjectName, PoolName
from picker.xds.cluster_policies import HTTP_OPTIONS
from picker.xds.config_source import grpc_source
from picker.xds.picker_ref import PickerName
from picker.xds.picker_tls import unverified_socket
from picker.xds.policies import NO_TIMEOUTS, ConnectionTimeouts
from picker.xds.protobuf import address, duration, pack_any, uint32

MAX_CONCURRENT = 40_000
"""Limit on concurrent requests, connections and retries. Envoy's default of 1,024 (3 for retries) is too low: streams
last minutes, and all requests of a failed endpoint are retried at once."""

POOL_CONNECT_TIMEOUT_S = 0.5
"""Connect timeout of a pool. A connection inside a cluster takes a millisecond. After this time another endpoint is
more likely to answer than TCP's next SYN, which is sent after 1 s."""

POOL_IDLE_TIMEOUT_S = 4.0
"""Idle timeout of a pool's connections. vLLM closes a connection after 5 s of idle time. Envoy must close it first, or
it sends a request into a closing connection."""

SERVICE_CONNECT_TIMEOUT_S = 10.0
"""Envoy Gateway's connect timeout."""

SERVICE_BUFFER_BYTES = 32 << 10
"""Envoy Gateway's `per_connection_buffer_limit_bytes`."""

EJECTION_S = 5.0
"""How long the fallback ejects an endpoint that accepts no connections. Judgement: the time of a quick restart."""

PICKER_EJECTION_S = 1.0
"""The same for a replica of the picker. Other replicas answer meanwhile; a single one is needed again soon."""

TLS_MARK = {"tls": True}
"""Endpoint metadata in the namespace `envoy.transport_socket_match`."""

PICKER_CONNECT_TIMEOUT_S = 1.0
PICKER_PING_INTERVAL_S = 10.0
PICKER_PING_TIMEOUT_S = 3.0
"""HTTP/2 keepalive of picker connections. If a picker's host is gone, or the picker hangs, the connection and its
exchanges end after at most 13 s. The picker's server must allow such PINGs
(`grpc.http2.min_ping_interval_without_data_ms`)."""

INVALID_BACKEND_CLUSTER = "invalid-backend-cluster"
"""A cluster that does not exist, as Envoy Gateway names it: Envoy answers its share of the requests with 500."""

_HttpOptions = http_protocol_options_pb2.HttpProtocolOptions


POOL_CLUSTER_PREFIX = "inferencepool/"
"""Start of the names of pools' clusters, and of no other cluster."""


def pool_cluster_name(pool: PoolName) -> str:
    return f"{POOL_CLUSTER_PREFIX}{pool}"


def pool_of_cluster(name: str) -> PoolName | None:
    """Parses the name of a pool's cluster; returns None for other clusters."""
    if not name.startswith(POOL_CLUSTER_PREFIX):
        return None
    try:
        return PoolName.parse(name.removeprefix(POOL_CLUSTER_PREFIX))
    except ValueError:
        return None


def pool_stat_name(pool: PoolName) -> str:
    """Returns the cluster's name in Envoy's metrics. Dots are replaced, because Envoy ends a name at a dot."""
    return f"inferencepool/{pool.namespace}/{pool.name}".replace(".", "_")


def pool_cluster(
    pool: InferencePool, eds_target: str, timeouts: ConnectionTimeouts = NO_TIMEOUTS
) -> cluster_pb2.Cluster:
    """Returns the cluster of a pool. The EDS server at `eds_target` (gRPC, `host:port`) serves its endpoints.

    A request goes to the endpoint that the picker chose, and on a retry to the next one in the picker's list. Without a
    usable pick, a FailOpen pool uses the endpoint with the fewest requests. A FailClose pool has no endpoint then, and
    Envoy answers 503. The idle timeout in `timeouts` applies only if it is shorter than POOL_IDLE_TIMEOUT_S."""
    fails_open = pool.picker is not None and pool.picker.failure_mode is FailureMode.FAIL_OPEN
    fallback = _policy("least_request", _least_request()) if fails_open else _no_endpoint()
    cluster = cluster_pb2.Cluster(
        name=pool_cluster_name(pool.name),
        alt_stat_name=pool_stat_name(pool.name),
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(
            service_name=str(pool.name), eds_config=grpc_source(eds_target)
        ),
        connect_timeout=duration(timeouts.connect_s or POOL_CONNECT_TIMEOUT_S),
        load_balancing_policy=_policy("override_host", _picked_endpoint(fallback)),
        circuit_breakers=_high_circuit_breakers(),
        typed_extension_protocol_options={HTTP_OPTIONS: pack_any(_pool_protocol(pool.app_protocol, timeouts))},
        upstream_connection_options=_tcp_keepalive(),
    )
    if fails_open:
        cluster.outlier_detection.CopyFrom(_eject_unconnectable(EJECTION_S, max_percent=50))
    return cluster


def service_cluster(
    service: ObjectName, port: int, eds_target: str, timeouts: ConnectionTimeouts = NO_TIMEOUTS
) -> cluster_pb2.Cluster:
    """Returns the cluster of a Service's endpoints, balanced as Envoy Gateway does by default."""
    name = service_key(service, port)
    cluster = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(service_name=name, eds_config=grpc_source(eds_target)),
        connect_timeout=duration(timeouts.connect_s or SERVICE_CONNECT_TIMEOUT_S),
        per_connection_buffer_limit_bytes=uint32(SERVICE_BUFFER_BYTES),
        ignore_health_on_host_removal=True,
        load_balancing_policy=_policy("least_request", _least_request()),
    )
    if timeouts.idle_s is not None or timeouts.max_duration_s is not None:
        options = _HttpOptions(
            common_http_protocol_options=_common(timeouts.idle_s, timeouts.max_duration_s),
            explicit_http_config=_explicit(AppProtocol.HTTP),
        )
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(pack_any(options))
    return cluster


def picker_cluster(name: str, host: str, port: int) -> cluster_pb2.Cluster:
    """Returns the cluster of a single picker at `host`, an IP address."""
    endpoint = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=address(host, port))
    )
    cluster = _grpc_cluster(name)
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.CopyFrom(
        endpoint_pb2.ClusterLoadAssignment(
            cluster_name=name, endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint])]
        )
    )
    return cluster


def eds_picker_cluster(picker: PickerName, eds_target: str) -> cluster_pb2.Cluster:
    """Returns the cluster of a picker's replicas, which the EDS server at `eds_target` serves. Endpoints marked with
    TLS_MARK use TLS.

    If no replica is ready or accepts connections, Envoy does not send the request to a picker, and the pool's failure
    mode applies. Once a body has been streamed to a picker it is too late for that."""
    cluster = _grpc_cluster(str(picker))
    cluster.type = cluster_pb2.Cluster.EDS
    cluster.eds_cluster_config.CopyFrom(
        cluster_pb2.Cluster.EdsClusterConfig(service_name=str(picker), eds_config=grpc_source(eds_target))
    )
    match = cluster.transport_socket_matches.add(name="tls", transport_socket=unverified_socket())
    match.match.update(TLS_MARK)
    cluster.common_lb_config.healthy_panic_threshold.SetInParent()
    cluster.outlier_detection.CopyFrom(_eject_unconnectable(PICKER_EJECTION_S, max_percent=100))
    return cluster


def _grpc_cluster(name: str) -> cluster_pb2.Cluster:
    http2 = protocol_pb2.Http2ProtocolOptions(
        connection_keepalive=protocol_pb2.KeepaliveSettings(
            interval=duration(PICKER_PING_INTERVAL_S), timeout=duration(PICKER_PING_TIMEOUT_S)
        )
    )
    options = _HttpOptions(explicit_http_config=_HttpOptions.ExplicitHttpConfig(http2_protocol_options=http2))
    return cluster_pb2.Cluster(
        name=name,
        connect_timeout=duration(PICKER_CONNECT_TIMEOUT_S),
        circuit_breakers=_high_circuit_breakers(),
        typed_extension_protocol_options={HTTP_OPTIONS: pack_any(options)},
    )


def _lb_key(key: str) -> metadata_pb2.MetadataKey:
    return metadata_pb2.MetadataKey(key=LB_NAMESPACE, path=[metadata_pb2.MetadataKey.PathSegment(key=key)])


def _policy(name: str, config: Message) -> cluster_pb2.LoadBalancingPolicy:
    typed = extension_pb2.TypedExtensionConfig(
        name=f"envoy.load_balancing_policies.{name}", typed_config=pack_any(config)
    )
    return cluster_pb2.LoadBalancingPolicy(
        policies=[cluster_pb2.LoadBalancingPolicy.Policy(typed_extension_config=typed)]
    )


def _picked_endpoint(fallback: cluster_pb2.LoadBalancingPolicy) -> typed_struct_pb2.TypedStruct:
    """Returns `OverrideHost` as a TypedStruct. The message of `xds-protos` 1.85 lacks `selected_host_key`, which
    reports the endpoint that answered to the picker."""
    override = override_host_pb2.OverrideHost(
        override_host_sources=[override_host_pb2.OverrideHost.OverrideHostSource(metadata=_lb_key(DESTINATION))],
        fallback_policy=fallback,
    )
    typed = typed_struct_pb2.TypedStruct(type_url=pack_any(override).type_url)
    typed.value.update(
        {
            **MessageToDict(override, preserving_proto_field_name=True),
            "selected_host_key": MessageToDict(_lb_key(DESTINATION_SERVED), preserving_proto_field_name=True),
        }
    )
    return typed


def _least_request() -> least_request_pb2.LeastRequest:
    return least_request_pb2.LeastRequest()


def _no_endpoint() -> cluster_pb2.LoadBalancingPolicy:
    """Returns a policy that never finds an endpoint: none has the label of its only subset."""
    return _policy(
        "subset",
        subset_pb2.Subset(
            fallback_policy=subset_pb2.Subset.NO_FALLBACK,
            subset_selectors=[subset_pb2.Subset.LbSubsetSelector(keys=["picked"])],
            subset_lb_policy=_policy("least_request", _least_request()),
        ),
    )


def _high_circuit_breakers() -> circuit_breaker_pb2.CircuitBreakers:
    limit = uint32(MAX_CONCURRENT)
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_connections=limit, max_pending_requests=limit, max_requests=limit, max_retries=limit
            )
        ]
    )


def _pool_protocol(protocol: AppProtocol, timeouts: ConnectionTimeouts) -> _HttpOptions:
    idle_s = min(timeouts.idle_s or POOL_IDLE_TIMEOUT_S, POOL_IDLE_TIMEOUT_S)
    return _HttpOptions(
        common_http_protocol_options=_common(idle_s, timeouts.max_duration_s), explicit_http_config=_explicit(protocol)
    )


def _common(idle_s: float | None, max_duration_s: float | None) -> protocol_pb2.HttpProtocolOptions:
    return protocol_pb2.HttpProtocolOptions(
        idle_timeout=duration(idle_s) if idle_s is not None else None,
        max_connection_duration=duration(max_duration_s) if max_duration_s is not None else None,
    )


def _explicit(protocol: AppProtocol) -> _HttpOptions.ExplicitHttpConfig:
    explicit = _HttpOptions.ExplicitHttpConfig()
    if protocol is AppProtocol.H2C:
        explicit.http2_protocol_options.SetInParent()
    else:
        explicit.http_protocol_options.SetInParent()
    return explicit


def _tcp_keepalive() -> cluster_pb2.UpstreamConnectionOptions:
    """Detects within a minute that the host of a long, silent response is gone."""
    return cluster_pb2.UpstreamConnectionOptions(
        tcp_keepalive=address_pb2.TcpKeepalive(
            keepalive_time=uint32(30), keepalive_interval=uint32(10), keepalive_probes=uint32(3)
        )
    )


def _eject_unconnectable(ejection_s: float, max_percent: int) -> outlier_detection_pb2.OutlierDetection:
    """Ejects endpoints that accept no connections.

    5xx responses do not eject: they may be one client's fault. In a pool, ejection only affects the fallback; an
    endpoint that the picker chose is used regardless."""
    never = uint32(0)
    return outlier_detection_pb2.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=uint32(2),
        enforcing_consecutive_local_origin_failure=uint32(100),
        enforcing_local_origin_success_rate=never,
        enforcing_consecutive_5xx=never,
        enforcing_consecutive_gateway_failure=never,
        enforcing_success_rate=never,
        interval=duration(1.0),
        base_ejection_time=duration(ejection_s),
        max_ejection_time=duration(ejection_s),
        max_ejection_percent=uint32(max_percent),
    )
