"""The hooks that add pools to Envoy Gateway's translation."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import grpc
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2, processing_mode_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf.wrappers_pb2 import UInt32Value
from picker.controller.certificates import issue, new_authority
from picker.endpoints.datastore import MembershipChange
from picker.resources.inference import (
    AppProtocol,
    FailureMode,
    InferencePool,
    PickerBodyMode,
    PickerRef,
    RoutingStrategy,
)
from picker.resources.names import POOL_GROUP_V1, ObjectName, PoolName
from picker.xds import extension_service_pb2 as service_pb2
from picker.xds.clusters import INVALID_BACKEND_CLUSTER, pool_cluster_name
from picker.xds.ext_proc_filter import FILTER_NAME
from picker.xds.extension import Extension, ExtensionConfig, RuleBackend, RuleName
from picker.xds.extension_objects import BODY_MODE_ANNOTATION, pools_of
from picker.xds.extension_server import SERVICE, ExtensionServer, LookupFailed, ServerTls
from picker.xds.model_filter import MODEL_FILTER
from picker.xds.model_names import UNKNOWN_TIME, DeclaredModels
from picker.xds.picker_ref import PickerName, PickerReplicas
from picker.xds.picker_tls import PickerTls
from picker.xds.protobuf import duration, pack_any
from picker.xds.route_expressions import NEVER
from picker.xds.third_party_picker import BUFFER_FILTER_NAME, BUFFERED_FILTER_NAME

RULE, NEXT_RULE = "httproute/default/chat/rule/0", "httproute/default/chat/rule/1"
EDS = "extension.system.svc.cluster.local:9004"
CONFIG = ExtensionConfig(EDS, "cluster.local", 1 << 20, ObjectName("ai", "picker"), frozenset({"team"}))
SERVICE_BACKEND = None


def pool(
    name: str,
    namespace: str = "default",
    picker: str | None = "picker",
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE,
) -> InferencePool:
    reference = PickerRef(ObjectName(namespace, picker), 9002, failure_mode) if picker else None
    return InferencePool(
        name=PoolName(POOL_GROUP_V1, namespace, name),
        selector={"app": name},
        target_ports=(8000,),
        picker=reference,
        app_protocol=AppProtocol.HTTP,
        strategy=RoutingStrategy.DEFAULT,
    )


RED, BLUE, GONE = pool("red"), pool("blue"), pool("gone")
TO_RED, TO_BLUE = (pool_cluster_name(target.name) for target in (RED, BLUE))


def backends(*weighted: tuple[InferencePool | None, int]) -> list[RuleBackend]:
    return [RuleBackend(pool.name if pool is not None else SERVICE_BACKEND, weight) for pool, weight in weighted]


def route(*clusters: tuple[str, int]) -> route_components_pb2.Route:
    made = route_components_pb2.Route(name="a")
    if len(clusters) == 1:
        made.route.cluster = clusters[0][0]
    for name, weight in clusters if len(clusters) > 1 else ():
        made.route.weighted_clusters.clusters.add(name=name, weight=UInt32Value(value=weight))
    return made


def weights_of(made: route_components_pb2.Route) -> dict[str, int]:
    if made.route.cluster:
        return {made.route.cluster: 1}
    return {cluster.name: cluster.weight.value for cluster in made.route.weighted_clusters.clusters}


def pickers_of(made: route_components_pb2.Route) -> dict[str, tuple[str, str]]:
    """Returns by cluster the pool that the picker is sent, and the picker's cluster."""
    overrides = {cluster.name: cluster.typed_per_filter_config for cluster in made.route.weighted_clusters.clusters}
    if made.route.cluster:
        overrides[made.route.cluster] = made.typed_per_filter_config
    result: dict[str, tuple[str, str]] = {}
    for name, override in overrides.items():
        if FILTER_NAME in override:
            own = ext_proc_pb2.ExtProcPerRoute.FromString(override[FILTER_NAME].value).overrides
            result[name] = own.grpc_initial_metadata[0].value, own.grpc_service.envoy_grpc.cluster_name
    return result


def listener(name: str) -> listener_pb2.Listener:
    router = hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack_any(router_pb2.Router()))
    manager = hcm_pb2.HttpConnectionManager(rds=hcm_pb2.Rds(route_config_name=name), http_filters=[router])
    filters = [listener_components_pb2.Filter(name="hcm", typed_config=pack_any(manager))]
    return listener_pb2.Listener(name=name, filter_chains=[listener_components_pb2.FilterChain(filters=filters)])


def filters_of(made: listener_pb2.Listener) -> list[str]:
    manager = hcm_pb2.HttpConnectionManager.FromString(made.filter_chains[0].filters[0].typed_config.value)
    return [http_filter.name for http_filter in manager.http_filters]


@pytest.fixture
def extension() -> Extension:
    return Extension(CONFIG)


def eds_names(*clusters: cluster_pb2.Cluster) -> dict[str, str]:
    """Returns the EDS name of each translated cluster, by cluster name."""
    translated_clusters, _ = Extension(CONFIG).translation(clusters, [], [])
    return {cluster.name: cluster.eds_cluster_config.service_name for cluster in translated_clusters}


def test_rule_with_one_pool_routes_to_the_pools_cluster(extension: Extension) -> None:
    """The route uses the picker that the pool names."""
    rule = backends((RED, 1))
    made = extension.route(route((RULE, 1)), [RED], rule)
    assert weights_of(made) == {TO_RED: 1}
    assert pickers_of(made) == {TO_RED: (str(RED.name), "inferencepicker/default/picker/9002")}
    assert eds_names(extension.cluster(cluster_pb2.Cluster(name=RULE), [RED], rule)) == {
        RULE: "",
        TO_RED: str(RED.name),
    }


def test_pool_has_one_cluster_for_all_rules(extension: Extension) -> None:
    """Envoy keeps its endpoints when a rule moves or gets another backend."""
    first = extension.cluster(cluster_pb2.Cluster(name=RULE), [RED], backends((RED, 1)))
    second = extension.cluster(cluster_pb2.Cluster(name=NEXT_RULE), [RED, BLUE], backends((RED, 1), (BLUE, 1)))
    assert set(eds_names(first, second)) == {RULE, NEXT_RULE, TO_RED, TO_BLUE}
    assert extension.route(route((NEXT_RULE, 1)), [RED], backends((RED, 1))).route.cluster == TO_RED


def test_deleted_rule_routes_to_the_pools_of_the_hook(extension: Extension) -> None:
    """Envoy Gateway may not have read the change yet."""
    assert weights_of(extension.route(route((RULE, 1)), [RED], [])) == {TO_RED: 1}
    assert set(eds_names(extension.cluster(cluster_pb2.Cluster(name=RULE), [RED], []))) == {RULE, TO_RED}


def test_pools_share_by_weight(extension: Extension) -> None:
    """Each pool has its own cluster and its own picker."""
    rule = backends((RED, 1), (BLUE, 3))
    made = extension.route(route((RULE, 1)), [RED, BLUE], rule)
    assert weights_of(made) == {TO_BLUE: 3, TO_RED: 1}
    pools = {name: pool for name, (pool, _) in pickers_of(made).items()}
    assert pools == {TO_BLUE: str(BLUE.name), TO_RED: str(RED.name)}
    cluster = extension.cluster(cluster_pb2.Cluster(name=RULE), [RED, BLUE], rule)
    assert eds_names(cluster) == {RULE: "", TO_RED: str(RED.name), TO_BLUE: str(BLUE.name)}


def test_service_beside_a_pool_keeps_the_rules_cluster(extension: Extension) -> None:
    """The rule's cluster has its endpoints, and its share does not use the picker."""
    rule = backends((RED, 1), (None, 4))
    made = extension.route(route((RULE, 1)), [RED], rule)
    assert weights_of(made) == {TO_RED: 1, RULE: 4}
    assert set(pickers_of(made)) == {TO_RED}


def test_backends_with_their_own_clusters_are_matched_by_index(extension: Extension) -> None:
    """The cluster name ends with the index of the backend in the rule."""
    rule = backends((None, 1), (RED, 2))
    names = [f"{RULE}/backend/{index}" for index in range(2)]
    made = extension.route(route((names[0], 1), (names[1], 2)), [RED], rule)
    assert weights_of(made) == {names[0]: 1, TO_RED: 2}
    assert set(pickers_of(made)) == {TO_RED}
    assert set(eds_names(extension.cluster(cluster_pb2.Cluster(name=names[0]), [RED], rule))) == {names[0]}
    assert set(eds_names(extension.cluster(cluster_pb2.Cluster(name=names[1]), [RED], rule))) == {names[1], TO_RED}


def test_share_of_a_missing_pool_gets_the_invalid_cluster(extension: Extension) -> None:
    """The other shares remain."""
    made = extension.route(route((RULE, 1)), [RED], backends((RED, 1), (GONE, 2)))
    assert weights_of(made) == {TO_RED: 1, INVALID_BACKEND_CLUSTER: 2}
    assert made.route.cluster_not_found_response_code == route_components_pb2.RouteAction.INTERNAL_SERVER_ERROR


def test_share_that_envoy_gateway_has_split_off_remains(extension: Extension) -> None:
    """Envoy Gateway names the invalid cluster itself."""
    made = extension.route(route((RULE, 1), (INVALID_BACKEND_CLUSTER, 2)), [RED], backends((RED, 1), (GONE, 2)))
    assert weights_of(made) == {TO_RED: 1, INVALID_BACKEND_CLUSTER: 2}


def test_backend_of_weight_zero_gets_no_requests(extension: Extension) -> None:
    """The Gateway API defines it."""
    rule = backends((RED, 0), (BLUE, 1))
    assert list(weights_of(extension.route(route((RULE, 1)), [RED, BLUE], rule))) == [TO_BLUE]
    # Its cluster exists, so that it can get a weight later without a 503.
    assert TO_RED in eds_names(extension.cluster(cluster_pb2.Cluster(name=RULE), [RED, BLUE], rule))


def test_route_without_pools_is_unchanged(extension: Extension) -> None:
    """Route and cluster are returned unchanged."""
    untouched = route((RULE, 1))
    assert extension.route(untouched, [], []) == untouched
    assert extension.cluster(cluster_pb2.Cluster(name=RULE), [], []) == cluster_pb2.Cluster(name=RULE)


def test_shared_picker_serves_only_the_sharing_namespaces(extension: Extension) -> None:
    """A pool of another namespace names a picker of its own namespace."""
    for namespace, picker_namespace in (("team", "ai"), ("other", "other")):
        shared_pool = pool("red", namespace)
        made = extension.route(route((RULE, 1)), [shared_pool], backends((shared_pool, 1)))
        [(_, picker)] = pickers_of(made).values()
        assert picker == f"inferencepicker/{picker_namespace}/picker/9002"


def configuration(name: str, *routes: route_components_pb2.Route) -> route_pb2.RouteConfiguration:
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[route_components_pb2.VirtualHost(routes=routes)])


def test_filters_are_inserted_only_into_listeners_with_a_pool(extension: Extension) -> None:
    """They are inserted once, before the router, and the picker's cluster is added."""
    pooled = extension.route(route((RULE, 1)), [RED], backends((RED, 1)))
    configurations = [configuration("llm", pooled, pooled), configuration("http", route(("x", 1)))]
    clusters, listeners = extension.translation([], [listener("llm"), listener("http")], configurations)
    assert [filters_of(translated_listener) for translated_listener in listeners] == [
        [BUFFER_FILTER_NAME, BUFFERED_FILTER_NAME, FILTER_NAME, "envoy.filters.http.router"],
        ["envoy.filters.http.router"],
    ]
    assert [cluster.name for cluster in clusters] == ["inferencepicker/default/picker/9002"]
    # The EDS name of the replicas is the cluster's name.
    assert clusters[0].eds_cluster_config.service_name == clusters[0].name


def test_translation_is_idempotent(extension: Extension) -> None:
    """Different bytes would make Envoy drain its listeners."""
    pooled = extension.route(route((RULE, 1)), [RED, BLUE], backends((RED, 1), (BLUE, 1)))
    clusters = [extension.cluster(cluster_pb2.Cluster(name=RULE), [BLUE, RED], backends((RED, 1), (BLUE, 1)))]
    once = extension.translation(clusters, [listener("llm")], [configuration("llm", pooled)])
    twice = extension.translation(*once, [configuration("llm", pooled)])
    assert twice == once


def by_model(name: str, of_route: route_components_pb2.Route) -> route_components_pb2.Route:
    """Adds Envoy Gateway's condition on the model to a route."""
    condition = of_route.match.headers.add(name="X-Gateway-Model-Name")
    condition.string_match.exact = name
    of_route.match.prefix = "/"
    return of_route


def test_gateway_with_a_route_by_model_reads_models(extension: Extension) -> None:
    """Other Gateways keep their bytes. Objects that Envoy Gateway does not send change only the routes."""
    pooled = by_model("red", extension.route(route((RULE, 1)), [RED], backends((RED, 1))))
    configurations = [configuration("llm", pooled), configuration("http", route(("x", 1)))]
    received = [listener("llm"), listener("http")]
    _, listeners = extension.translation([], received, configurations)
    first, *_, before_last, last = filters_of(listeners[0])
    assert (first, before_last, last) == (MODEL_FILTER, FILTER_NAME, "envoy.filters.http.router")
    assert listeners[1] == received[1]
    made, other = extension.routes(received, configurations)
    assert "inference-gateway/models" in [each.name for each in made.virtual_hosts[0].routes]
    assert other == configurations[1]
    extension.declared = DeclaredModels({RED.name: {"declared": UNKNOWN_TIME}})
    pooled.match.headers[0].string_match.exact = "declared"
    assert extension.translation([], received, configurations)[1] == listeners


def modes_of(made: route_components_pb2.Route) -> processing_mode_pb2.ProcessingMode:
    override = ext_proc_pb2.ExtProcPerRoute.FromString(made.typed_per_filter_config[FILTER_NAME].value)
    return override.overrides.processing_mode


def test_third_party_picker_gets_streamed_bodies(extension: Extension) -> None:
    """It replies to headers only after the body. This project's picker does not need streaming, which costs more."""
    rule = backends((RED, 1))
    streamed = extension.route(route((RULE, 1)), [RED], rule, third_party={ObjectName("default", "picker")})
    assert modes_of(streamed).request_body_mode == processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
    assert modes_of(extension.route(route((RULE, 1)), [RED], rule)) == processing_mode_pb2.ProcessingMode()


def test_third_party_picker_in_buffered_mode_gets_one_message(extension: Extension) -> None:
    """Its pool's cluster, and the listener's filter, are found as with the other mode."""
    reference = PickerRef(ObjectName("default", "picker"), 9002, FailureMode.FAIL_OPEN, PickerBodyMode.BUFFERED)
    buffered = replace(RED, picker=reference)
    made = extension.route(route((RULE, 1)), [buffered], backends((RED, 1)), {ObjectName("default", "picker")})
    assert made.typed_per_filter_config.keys() == {BUFFER_FILTER_NAME, BUFFERED_FILTER_NAME}
    [translated], _ = extension.translation([], [listener("llm")], [configuration("llm", made)])
    assert translated.name == "inferencepicker/default/picker/9002"
    [limited] = extension.routes([listener("llm")], [configuration("llm", made)])
    assert limited.virtual_hosts[0].routes[0].route.HasField("idle_timeout")


@pytest.mark.parametrize(
    ("annotations", "mode"),
    [
        ({}, PickerBodyMode.DUPLEX),
        (None, PickerBodyMode.DUPLEX),
        ({BODY_MODE_ANNOTATION: "buffered"}, PickerBodyMode.BUFFERED),
        ({BODY_MODE_ANNOTATION: "nonsense"}, PickerBodyMode.DUPLEX),
        ({BODY_MODE_ANNOTATION: []}, PickerBodyMode.DUPLEX),
    ],
)
def test_body_mode_is_that_of_the_pools_annotation(annotations: dict[str, object] | None, mode: PickerBodyMode) -> None:
    object_ = json.loads(pool_json())
    object_["metadata"]["annotations"] = annotations
    [found] = pools_of([service_pb2.ExtensionResource(unstructured_bytes=json.dumps(object_).encode())])
    assert found.picker is not None
    assert found.picker.body_mode is mode


class Services:
    """Pickers' Services that the test sets."""

    def __init__(self, *own: ObjectName) -> None:
        self.own = own

    def replicas(self, picker: PickerName) -> PickerReplicas | None: ...

    async def is_own_picker(self, service: ObjectName) -> bool:
        return service in self.own

    def listen(self, listener: Callable[[MembershipChange], None]) -> None: ...


class Lookup:
    """Backends of a rule that the test sets."""

    def __init__(self, found: Sequence[RuleBackend] | None) -> None:
        self.found = found

    async def backends(self, rule: RuleName) -> Sequence[RuleBackend]:
        if self.found is None:
            raise LookupFailed("the API server is away")
        assert rule == RuleName(ObjectName("default", "chat"), 0, None)
        return self.found

    def invalidate(self) -> None: ...


def pool_json(annotations: dict[str, str] | None = None) -> bytes:
    return json.dumps(
        {
            "apiVersion": f"{POOL_GROUP_V1}/v1",
            "kind": "InferencePool",
            "metadata": {"name": "red", "namespace": "default", "annotations": annotations or {}, "uid": "1"},
            "spec": {
                "selector": {"matchLabels": {"app": "red"}},
                "targetPorts": [{"number": 8000}],
                "endpointPickerRef": {"name": "picker", "port": {"number": 9002}, "added": "in a later version"},
            },
        }
    ).encode()


async def modified_route(lookup: Lookup, pool_bytes: bytes, *own: ObjectName) -> route_components_pb2.Route:
    """Returns the route that the server returns over gRPC. `own`: the Services of this project's pickers."""
    return await route_of(ExtensionServer(Extension(CONFIG), lookup, Services(*own), "127.0.0.1:0"), pool_bytes)


async def route_of(server: ExtensionServer, pool_bytes: bytes) -> route_components_pb2.Route:
    """Starts `server`, and returns the route that it returns over gRPC."""
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/PostRouteModify",
                request_serializer=service_pb2.PostRouteModifyRequest.SerializeToString,
                response_deserializer=service_pb2.PostRouteModifyResponse.FromString,
            )
            context = service_pb2.PostRouteExtensionContext(
                extension_resources=[service_pb2.ExtensionResource(unstructured_bytes=pool_bytes)]
            )
            request = service_pb2.PostRouteModifyRequest(
                route=route((RULE, 1)).SerializeToString(), post_route_context=context
            )
            answer = await call(request)
            return route_components_pb2.Route.FromString(answer.route)
    finally:
        await server.stop()


@pytest.mark.parametrize(
    "annotations", [{}, {"inference.networking.x-k8s.io/routing-strategy": "FASTEST"}], ids=["right", "wrong"]
)
async def test_server_reads_pools_as_the_api_server_writes_them(annotations: dict[str, str]) -> None:
    """An invalid annotation and fields of later versions are ignored."""
    made = await modified_route(Lookup(backends((RED, 1))), pool_json(annotations))
    assert pickers_of(made)[TO_RED][0] == str(RED.name)


async def test_server_distinguishes_third_party_pickers() -> None:
    """The Service of the picker decides."""
    lookup = Lookup(backends((RED, 1)))
    ours = await modified_route(lookup, pool_json(), ObjectName("default", "picker"))
    theirs = await modified_route(lookup, pool_json(), ObjectName("other", "picker"))
    assert [modes_of(made).request_body_mode != 0 for made in (ours, theirs)] == [False, True]


async def test_failed_lookup_aborts_the_call() -> None:
    """Envoy Gateway keeps its configuration and retries."""
    with pytest.raises(grpc.aio.AioRpcError, match="HTTPRoute default/chat: the API server is away") as raised:
        await modified_route(Lookup(None), pool_json())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


class FaultyLookup(Lookup):
    """Raises an exception that the extension does not expect."""

    async def backends(self, rule: RuleName) -> Sequence[RuleBackend]:
        raise RuntimeError("a fault")


@pytest.mark.parametrize(
    ("lookup", "result"),
    [(Lookup(backends((RED, 1))), "ok"), (Lookup(None), "unavailable"), (FaultyLookup(None), "internal")],
)
async def test_calls_are_counted_by_result(lookup: Lookup, result: str) -> None:
    server = ExtensionServer(Extension(CONFIG), lookup, Services(), "127.0.0.1:0")
    with contextlib.suppress(grpc.aio.AioRpcError):
        await route_of(server, pool_json())
    samples = [sample for metric in server.metrics.collect() for sample in metric.samples]
    counted = {
        sample.labels["result"]: sample.value
        for sample in samples
        if sample.name == "inference_gateway_extension_calls_total" and sample.labels["hook"] == "PostRouteModify"
    }
    assert counted == {"ok": 0, "unavailable": 0, "internal": 0} | {result: 1}
    [measured] = [
        sample.value
        for sample in samples
        if sample.name == "inference_gateway_extension_call_seconds_count"
        and sample.labels["hook"] == "PostRouteModify"
    ]
    assert measured == 1


async def test_unsupported_pool_is_left_to_envoy_gateway() -> None:
    """Envoy Gateway's cluster has no endpoints."""
    wrong = pool_json().replace(b'"name": "picker"', b'"name": "picker", "kind": "Gateway"')
    made = await modified_route(Lookup(()), wrong)
    assert pickers_of(made) == {}


def test_only_the_picker_with_tls_gets_the_certificate(extension: Extension) -> None:
    """The server's certificate is verified for the picker's DNS name."""
    extension.picker_tls = PickerTls(ObjectName("default", "picker"), b"authority", b"certificate", b"key")
    other = pool("other", picker="theirs")
    routes = [extension.route(route((RULE, 1)), [target], backends((target, 1))) for target in (RED, other)]
    clusters, _ = extension.translation([], [listener("llm")], [configuration("llm", *routes)])
    ours, theirs = sorted(clusters, key=lambda cluster: "theirs" in cluster.name)
    [tls_match] = ours.transport_socket_matches
    context = tls_pb2.UpstreamTlsContext.FromString(tls_match.transport_socket.typed_config.value)
    assert context.sni == "picker.default.svc.cluster.local"
    common = context.common_tls_context
    assert common.validation_context.match_typed_subject_alt_names[0].matcher.exact == context.sni
    assert common.tls_certificates[0].private_key.inline_bytes == b"key"
    assert b"PRIVATE" not in theirs.SerializeToString()
    # Only marked endpoints use TLS: replicas may differ.
    for cluster in (ours, theirs):
        assert not cluster.HasField("transport_socket")
        assert [match.match["tls"] for match in cluster.transport_socket_matches] == [True]


async def translated(tls: Callable[[], ServerTls] | None, channel: grpc.ChannelCredentials | None) -> bytes:
    """Returns the server's response to a translation with a route to the pool."""
    extension = Extension(CONFIG)
    extension.picker_tls = PickerTls(ObjectName("default", "picker"), b"authority", b"certificate", b"SECRET KEY")
    routes = [extension.route(route((RULE, 1)), [RED], backends((RED, 1)))]
    server = ExtensionServer(extension, Lookup(()), Services(), "127.0.0.1:0", tls)
    await server.start()
    address = f"localhost:{server.port}"
    try:
        async with (
            grpc.aio.secure_channel(address, channel) if channel is not None else grpc.aio.insecure_channel(address)
        ) as connected:
            call = connected.unary_unary(
                f"/{SERVICE}/PostTranslateModify",
                request_serializer=service_pb2.PostTranslateModifyRequest.SerializeToString,
                response_deserializer=service_pb2.PostTranslateModifyResponse.FromString,
            )
            configurations = [configuration("llm", *routes).SerializeToString()]
            return (
                await call(service_pb2.PostTranslateModifyRequest(routes=configurations), timeout=5)
            ).SerializeToString()
    finally:
        await server.stop()


async def test_response_in_plain_text_has_no_private_key() -> None:
    """The server runs without TLS."""
    answer = await translated(None, None)
    assert b"inferencepicker/default/picker/9002" in answer
    assert b"SECRET KEY" not in answer


@pytest.mark.parametrize(
    ("client_certificate", "answered"), [("own", True), ("foreign", False), ("none", False), ("plain", False)]
)
async def test_with_tls_only_clients_of_the_same_ca_are_served(client_certificate: str, answered: bool) -> None:
    """The response has the private key, which Envoy needs."""
    now = datetime.now(UTC)
    authority = new_authority(now)
    own, server = issue(authority, "envoy-gateway", [], now), issue(authority, "extension", ["localhost"], now)
    foreign = issue(new_authority(now), "envoy-gateway", [], now)
    client = {"own": own, "foreign": foreign}.get(client_certificate)
    credentials = grpc.ssl_channel_credentials(
        authority.certificate,
        client.key if client is not None else None,
        client.certificate if client is not None else None,
    )
    tls = ServerTls(server.certificate, server.key, authority.certificate)
    if answered:
        assert b"SECRET KEY" in await translated(lambda: tls, credentials)
        return
    with pytest.raises(grpc.aio.AioRpcError):
        await translated(lambda: tls, credentials if client_certificate != "plain" else None)


def test_route_with_a_rejected_expression_matches_nothing(extension: Extension) -> None:
    """Envoy would reject all routes of the listener for it."""
    broken = route((RULE, 1))
    broken.match.safe_regex.SetInParent()
    made = extension.route(broken, [RED], backends((RED, 1)))
    assert made.match.safe_regex.regex == NEVER
    assert weights_of(made) == {TO_RED: 1}


def idle_timeouts(made: Sequence[route_pb2.RouteConfiguration]) -> list[float | None]:
    """Returns the idle timeout of each route in seconds; None for a route without one."""
    actions = [route.route for configuration in made for host in configuration.virtual_hosts for route in host.routes]
    return [action.idle_timeout.seconds if action.HasField("idle_timeout") else None for action in actions]


def both_routes(extension: Extension, name: str, **action: object) -> route_pb2.RouteConfiguration:
    """Returns a configuration with a route to a pool and one to a Service."""
    to_pool = extension.route(route((RULE, 1)), [RED], backends((RED, 1)))
    to_pool.route.MergeFrom(route_components_pb2.RouteAction(**action))  # pyright: ignore[reportArgumentType]
    host = route_components_pb2.VirtualHost(routes=[to_pool, route((NEXT_RULE, 1))])
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[host])


def test_only_routes_to_pools_get_no_idle_timeout(extension: Extension) -> None:
    assert idle_timeouts(extension.routes([listener("a")], [both_routes(extension, "a")])) == [0, None]


def test_idle_timeout_of_the_route_remains(extension: Extension) -> None:
    made = both_routes(extension, "a", idle_timeout=duration(7))
    assert idle_timeouts(extension.routes([listener("a")], [made])) == [7, None]


def test_idle_timeout_of_the_listener_remains(extension: Extension) -> None:
    limiting = listener("a")
    filter_ = limiting.filter_chains[0].filters[0]
    manager = hcm_pb2.HttpConnectionManager.FromString(filter_.typed_config.value)
    manager.stream_idle_timeout.CopyFrom(duration(60))
    filter_.typed_config.CopyFrom(pack_any(manager))
    assert idle_timeouts(extension.routes([limiting], [both_routes(extension, "a")])) == [None, None]


@dataclass(frozen=True)
class Header:
    name: str
    value: str


@dataclass(frozen=True)
class Changes:
    set: Sequence[Header] = ()
    add: Sequence[Header] = ()
    remove: Sequence[str] = ()


def request_changes(made: route_components_pb2.Route) -> list[tuple[str, int, list[str], list[str]]]:
    """Returns for each share its cluster, its weight, the request headers that it sets or adds, and those that it
    removes."""
    return [
        (
            cluster.name,
            cluster.weight.value,
            [f"{option.header.key}: {option.header.value}" for option in cluster.request_headers_to_add],
            list(cluster.request_headers_to_remove),
        )
        for cluster in made.route.weighted_clusters.clusters
    ]


def test_filters_of_a_single_pool_change_headers(extension: Extension) -> None:
    changes = Changes([Header("a", "1%")], [Header("b", "2")], ["c"])
    made = extension.route(route((RULE, 1)), [RED], [RuleBackend(RED.name, 1, (changes,))])
    assert request_changes(made) == [(TO_RED, 1, ["a: 1%%", "b: 2"], ["c"])]
    assert pickers_of(made).keys() == {TO_RED}


def test_backends_of_one_pool_have_their_own_filters(extension: Extension) -> None:
    one, two = Changes([Header("a", "1")]), Changes([Header("a", "2")])
    rule = [RuleBackend(RED.name, 1, (one,)), RuleBackend(RED.name, 2, (two,)), RuleBackend(RED.name, 4)]
    made = extension.route(route((RULE, 1)), [RED], rule)
    assert sorted(request_changes(made)) == [(TO_RED, 1, ["a: 1"], []), (TO_RED, 2, ["a: 2"], []), (TO_RED, 4, [], [])]


def test_backend_with_its_own_cluster_has_its_own_filters(extension: Extension) -> None:
    rule = [RuleBackend(RED.name, 3), RuleBackend(BLUE.name, 1, (Changes(remove=["c"]),))]
    weighted_route = route((f"{RULE}/backend/0", 3), (f"{RULE}/backend/1", 1))
    made = extension.route(weighted_route, [RED, BLUE], rule)
    assert request_changes(made) == [(TO_RED, 3, [], []), (TO_BLUE, 1, [], ["c"])]


def test_filters_change_response_headers(extension: Extension) -> None:
    rule = [RuleBackend(RED.name, 1, (), (Changes(remove=["server"]),))]
    [share] = extension.route(route((RULE, 1)), [RED], rule).route.weighted_clusters.clusters
    assert list(share.response_headers_to_remove) == ["server"]


@pytest.mark.parametrize("header", [Header("Host", "x"), Header("a", "x\ny"), Header("a b", "x"), Header(":path", "/")])
def test_header_changes_that_envoy_rejects_are_left_out(extension: Extension, header: Header) -> None:
    changes = Changes([header], [header], [header.name] if header.name != "a" else [])
    made = extension.route(route((RULE, 1)), [RED], [RuleBackend(RED.name, 1, (changes,))])
    assert request_changes(made) == [(TO_RED, 1, [], [])]
