"""Envoy's clusters: the endpoints of a pool, those of a Service, and the picker itself."""

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
"""Requests, connections and retries at once. Envoy's default of 1,024 (3 for retries) is what users run into first:
streams live for minutes, and a dead server's requests are all retried at the same moment."""

POOL_CONNECT_TIMEOUT_S = 0.5
"""A connection inside a cluster takes a millisecond. After this the next endpoint of the list is the better bet, well
before TCP repeats a lost SYN (1 s)."""

POOL_IDLE_TIMEOUT_S = 4.0
"""vLLM closes a connection that was idle for 5 s; Envoy must do so first, or sends a request into the closing."""

SERVICE_CONNECT_TIMEOUT_S = 10.0
"""Envoy Gateway's."""

SERVICE_BUFFER_BYTES = 32 << 10
"""Envoy Gateway's `per_connection_buffer_limit_bytes`."""

EJECTION_S = 5.0
"""How long the fallback leaves out an endpoint that did not take connections: as long as a quick restart."""

PICKER_EJECTION_S = 1.0
"""The same for a replica of the picker: its twin answers meanwhile, and without one it is missed."""

TLS_MARK = {"tls": True}
"""Metadata of an endpoint, in the namespace `envoy.transport_socket_match`."""

PICKER_CONNECT_TIMEOUT_S = 1.0
PICKER_PING_INTERVAL_S = 10.0
PICKER_PING_TIMEOUT_S = 3.0
"""A picker whose machine is gone, or that hangs, loses its connection after 13 s at the latest, and its exchanges with
it. The picker's server must allow such pings (`grpc.http2.min_ping_interval_without_data_ms`)."""

_HttpOptions = http_protocol_options_pb2.HttpProtocolOptions


def pool_cluster_name(pool: PoolName) -> str:
    return f"inferencepool/{pool}"


def pool_stat_name(pool: PoolName) -> str:
    """What Envoy's metrics call the cluster. Envoy takes a dot for the end of a name."""
    return f"inferencepool/{pool.namespace}/{pool.name}".replace(".", "_")


def service_cluster_name(service: ObjectName, port: int) -> str:
    """Also the EDS name."""
    return f"service/{service}/{port}"


def pool_cluster(
    pool: InferencePool, eds_target: str, timeouts: ConnectionTimeouts = NO_TIMEOUTS
) -> cluster_pb2.Cluster:
    """The pool's endpoints, as the picker at `eds_target` (gRPC, `host:port`) tells them; the request goes to the one
    that the picker named, and on a retry to the next in its list.

    Without a usable pick a FailOpen pool falls back to the endpoint with the fewest requests; a FailClose pool has
    nothing to give, and Envoy answers 503. Of `timeouts` the idle time counts only if
    it is shorter than a pool's own."""
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
    """The endpoints behind a Service, balanced as Envoy Gateway does by default."""
    name = service_cluster_name(service, port)
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
    """The gRPC server of the one picker at `host`, an IP address."""
    endpoint = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=address(host, port))
    )
    cluster = _asked_by_grpc(name)
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.CopyFrom(
        endpoint_pb2.ClusterLoadAssignment(
            cluster_name=name, endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint])]
        )
    )
    return cluster


def followed_picker_cluster(picker: PickerName, eds_target: str) -> cluster_pb2.Cluster:
    """The replicas of a picker, as the server at `eds_target` tells them: those marked with TLS_MARK by TLS. Where none
    is ready, or none takes connections, a request is not sent at all and the pool does what its failure mode says: once
    a body has been streamed to a picker it is too late for that."""
    cluster = _asked_by_grpc(str(picker))
    cluster.type = cluster_pb2.Cluster.EDS
    cluster.eds_cluster_config.CopyFrom(
        cluster_pb2.Cluster.EdsClusterConfig(service_name=str(picker), eds_config=grpc_source(eds_target))
    )
    match = cluster.transport_socket_matches.add(name="tls", transport_socket=unverified_socket())
    match.match.update(TLS_MARK)
    cluster.common_lb_config.healthy_panic_threshold.SetInParent()
    cluster.outlier_detection.CopyFrom(_eject_unconnectable(PICKER_EJECTION_S, max_percent=100))
    return cluster


def _asked_by_grpc(name: str) -> cluster_pb2.Cluster:
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
    """`OverrideHost`, as the struct that Envoy reads in its stead: the message of `xds-protos` 1.85 does not know
    `selected_host_key` yet, through which the picker learns who served."""
    override = override_host_pb2.OverrideHost(
        override_host_sources=[override_host_pb2.OverrideHost.OverrideHostSource(metadata=_lb_key(DESTINATION))],
        fallback_policy=fallback,
    )
    named = typed_struct_pb2.TypedStruct(type_url=pack_any(override).type_url)
    named.value.update(
        {
            **MessageToDict(override, preserving_proto_field_name=True),
            "selected_host_key": MessageToDict(_lb_key(DESTINATION_SERVED), preserving_proto_field_name=True),
        }
    )
    return named


def _least_request() -> least_request_pb2.LeastRequest:
    return least_request_pb2.LeastRequest()


def _no_endpoint() -> cluster_pb2.LoadBalancingPolicy:
    """A policy that never finds one: no endpoint carries the label that its only subset asks for."""
    return _policy(
        "subset",
        subset_pb2.Subset(
            fallback_policy=subset_pb2.Subset.NO_FALLBACK,
            subset_selectors=[subset_pb2.Subset.LbSubsetSelector(keys=["picked"])],
            subset_lb_policy=_policy("least_request", _least_request()),
        ),
    )


def _high_circuit_breakers() -> circuit_breaker_pb2.CircuitBreakers:
    most = uint32(MAX_CONCURRENT)
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_connections=most, max_pending_requests=most, max_requests=most, max_retries=most
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
    """Notices within a minute that the machine of a long, silent answer has gone."""
    return cluster_pb2.UpstreamConnectionOptions(
        tcp_keepalive=address_pb2.TcpKeepalive(
            keepalive_time=uint32(30), keepalive_interval=uint32(10), keepalive_probes=uint32(3)
        )
    )


def _eject_unconnectable(ejection_s: float, max_percent: int) -> outlier_detection_pb2.OutlierDetection:
    """Leave an endpoint that takes no connections out. Only that: a server that answers 500 to one client's requests is
    none to keep from the others. In a pool it is the fallback that it is left out of: the picker's word stands above
    this."""
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
