"""A BackendTrafficPolicy of a rule's cluster applies to the pools that the rule routes to."""

import subprocess
from pathlib import Path
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, extension_pb2, health_check_pb2, protocol_pb2
from envoy.extensions.load_balancing_policies.least_request.v3 import least_request_pb2
from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from picker.commands.standalone.envoy_process import envoy_binary
from picker.resources.inference import FailureMode, InferencePool
from picker.xds.cluster_policies import HTTP_OPTIONS
from picker.xds.extension import Extension
from picker.xds.protobuf import duration, pack_any, uint32
from test_extension import CONFIG, NEXT_RULE, RED, RULE, TO_RED, backends, pool

OPEN = pool("red", failure_mode=FailureMode.FAIL_OPEN)
Thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds
HttpOptions = http_protocol_options_pb2.HttpProtocolOptions


def balanced_by(policy: Message) -> cluster_pb2.LoadBalancingPolicy:
    name = policy.DESCRIPTOR.full_name.split(".")[-3]
    typed = extension_pb2.TypedExtensionConfig(
        name=f"envoy.load_balancing_policies.{name}", typed_config=pack_any(policy)
    )
    return cluster_pb2.LoadBalancingPolicy(
        policies=[cluster_pb2.LoadBalancingPolicy.Policy(typed_extension_config=typed)]
    )


def rule(name: str = RULE, **fields: Any) -> cluster_pb2.Cluster:
    """Returns a rule's cluster as Envoy Gateway 1.9 makes it without policies, except for `fields`."""
    defaults: dict[str, Any] = {
        "connect_timeout": duration(10),
        "per_connection_buffer_limit_bytes": uint32(32 << 10),
        "circuit_breakers": circuit_breaker_pb2.CircuitBreakers(thresholds=[Thresholds(max_retries=uint32(1024))]),
        "load_balancing_policy": balanced_by(least_request_pb2.LeastRequest()),
    }
    return cluster_pb2.Cluster(name=name, **(defaults | fields))


def of_pool(*rules: cluster_pb2.Cluster, to: InferencePool = RED) -> cluster_pb2.Cluster:
    """Returns the cluster of a pool to which all `rules` route."""
    extension = Extension(CONFIG)
    rule_clusters = [extension.cluster(cluster, [to], backends((to, 1))) for cluster in rules]
    clusters, _ = extension.translation(rule_clusters, [], [])
    return next(cluster for cluster in clusters if cluster.name == TO_RED)


def limited(**limits: int) -> circuit_breaker_pb2.CircuitBreakers:
    values = {name: uint32(value) for name, value in limits.items()}
    return circuit_breaker_pb2.CircuitBreakers(thresholds=[Thresholds(**values)])  # pyright: ignore[reportArgumentType]


def test_rule_without_policy_leaves_the_cluster_unchanged() -> None:
    assert of_pool(rule()) == of_pool(cluster_pb2.Cluster(name=RULE))


def test_circuit_breaker_applies_to_the_pool() -> None:
    cluster = of_pool(rule(circuit_breakers=limited(max_requests=1, max_retries=1024)))
    [thresholds] = cluster.circuit_breakers.thresholds
    assert (thresholds.max_requests.value, thresholds.max_retries.value) == (1, 1024)
    assert thresholds.max_connections.value == 40_000


def test_strictest_circuit_breaker_of_two_rules_applies() -> None:
    one = rule(circuit_breakers=limited(max_requests=7, max_connections=2))
    two = rule(NEXT_RULE, circuit_breakers=limited(max_requests=3, max_connections=5))
    [thresholds] = of_pool(one, two).circuit_breakers.thresholds
    assert (thresholds.max_requests.value, thresholds.max_connections.value) == (3, 2)


def test_shortest_connect_timeout_applies_to_the_pool() -> None:
    cluster = of_pool(rule(connect_timeout=duration(3)), rule(NEXT_RULE, connect_timeout=duration(2)))
    assert cluster.connect_timeout == duration(2)


def test_keepalive_and_health_checks_apply_to_the_pool() -> None:
    keepalive = cluster_pb2.UpstreamConnectionOptions(tcp_keepalive=address_pb2.TcpKeepalive(keepalive_time=uint32(7)))
    check = health_check_pb2.HealthCheck(timeout=duration(1))
    cluster = of_pool(rule(upstream_connection_options=keepalive, health_checks=[check]))
    assert cluster.upstream_connection_options == keepalive
    assert list(cluster.health_checks) == [check]


def test_protocol_options_keep_the_pools_idle_timeout() -> None:
    common = protocol_pb2.HttpProtocolOptions(idle_timeout=duration(60), max_connection_duration=duration(9))
    options = HttpOptions(common_http_protocol_options=common)
    cluster = of_pool(rule(typed_extension_protocol_options={HTTP_OPTIONS: pack_any(options)}))
    pool_options = HttpOptions.FromString(cluster.typed_extension_protocol_options[HTTP_OPTIONS].value)
    assert pool_options.common_http_protocol_options.max_connection_duration == duration(9)
    assert pool_options.common_http_protocol_options.idle_timeout == duration(4)
    assert pool_options.explicit_http_config.HasField("http_protocol_options")


def test_load_balancer_is_the_fallback_of_a_fail_open_pool() -> None:
    balancer = balanced_by(round_robin_pb2.RoundRobin())
    assert "round_robin" in MessageToJson(of_pool(rule(load_balancing_policy=balancer), to=OPEN))
    assert "round_robin" not in MessageToJson(of_pool(rule(load_balancing_policy=balancer), to=RED))


def test_order_of_the_rules_does_not_matter() -> None:
    one = rule(health_checks=[health_check_pb2.HealthCheck(timeout=duration(1))])
    two = rule(NEXT_RULE, health_checks=[health_check_pb2.HealthCheck(timeout=duration(2))])
    assert of_pool(one, two) == of_pool(two, one)


def test_envoy_accepts_a_cluster_with_all_policies(tmp_path: Path) -> None:
    options = HttpOptions(common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=duration(1)))
    check = health_check_pb2.HealthCheck(
        timeout=duration(1),
        interval=duration(1),
        unhealthy_threshold=uint32(1),
        healthy_threshold=uint32(1),
        tcp_health_check=health_check_pb2.HealthCheck.TcpHealthCheck(),
    )
    cluster = of_pool(
        rule(
            circuit_breakers=limited(max_requests=1),
            connect_timeout=duration(3),
            health_checks=[check],
            load_balancing_policy=balanced_by(round_robin_pb2.RoundRobin()),
            typed_extension_protocol_options={HTTP_OPTIONS: pack_any(options)},
        ),
        to=OPEN,
    )
    path = tmp_path / "bootstrap.json"
    bootstrap = bootstrap_pb2.Bootstrap(static_resources=bootstrap_pb2.Bootstrap.StaticResources(clusters=[cluster]))
    bootstrap.node.id = bootstrap.node.cluster = "test"
    path.write_text(MessageToJson(bootstrap))
    command = [envoy_binary(None), "--mode", "validate", "--config-path", path]
    validation = subprocess.run(command, capture_output=True, text=True, check=False)
    assert validation.returncode == 0, validation.stderr
