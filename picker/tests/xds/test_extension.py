"""Envoy Gateway's translation, made pool-aware hook by hook."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from picker.resources.inference import AppProtocol, FailureMode, InferencePool, PickerRef, RoutingStrategy
from picker.resources.names import POOL_GROUP_V1, ObjectName, PoolName
from picker.xds import extension_service_pb2 as service_pb2
from picker.xds.clusters import pool_cluster_name
from picker.xds.ext_proc_filter import FILTER_NAME
from picker.xds.extension import NO_BACKEND_CLUSTER, Extension, ExtensionConfig, RuleBackend, RuleName
from picker.xds.extension_server import SERVICE, ExtensionServer, LookupFailed, ServerTls
from picker.xds.picker_ref import PickerName, PickerPlaces
from picker.xds.picker_tls import PickerTls
from picker.xds.protobuf import duration, pack_any
from picker.xds.route_expressions import NEVER

RULE, NEXT_RULE = "httproute/default/chat/rule/0", "httproute/default/chat/rule/1"
EDS = "extension.system.svc.cluster.local:9004"
JOINTS = ExtensionConfig(EDS, "cluster.local", 1 << 20, ObjectName("ai", "picker"), frozenset({"team"}))
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
TO_RED, TO_BLUE = (pool_cluster_name(each.name) for each in (RED, BLUE))


def backends(*each: tuple[InferencePool | None, int]) -> list[RuleBackend]:
    return [RuleBackend(pool.name if pool is not None else SERVICE_BACKEND, weight) for pool, weight in each]


def route(*clusters: tuple[str, int]) -> route_components_pb2.Route:
    made = route_components_pb2.Route(name="a")
    if len(clusters) == 1:
        made.route.cluster = clusters[0][0]
    for name, weight in clusters if len(clusters) > 1 else ():
        made.route.weighted_clusters.clusters.add(name=name, weight=UInt32Value(value=weight))
    return made


def leads_to(made: route_components_pb2.Route) -> dict[str, int]:
    if made.route.cluster:
        return {made.route.cluster: 1}
    return {each.name: each.weight.value for each in made.route.weighted_clusters.clusters}


def asked_for(made: route_components_pb2.Route) -> dict[str, tuple[str, str]]:
    """By cluster: the pool that the picker is told, and the picker's cluster."""
    overrides = {each.name: each.typed_per_filter_config for each in made.route.weighted_clusters.clusters}
    if made.route.cluster:
        overrides[made.route.cluster] = made.typed_per_filter_config
    found: dict[str, tuple[str, str]] = {}
    for name, override in overrides.items():
        if FILTER_NAME in override:
            own = ext_proc_pb2.ExtProcPerRoute.FromString(override[FILTER_NAME].value).overrides
            found[name] = own.grpc_initial_metadata[0].value, own.grpc_service.envoy_grpc.cluster_name
    return found


def listener(name: str) -> listener_pb2.Listener:
    router = hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack_any(router_pb2.Router()))
    manager = hcm_pb2.HttpConnectionManager(rds=hcm_pb2.Rds(route_config_name=name), http_filters=[router])
    filters = [listener_components_pb2.Filter(name="hcm", typed_config=pack_any(manager))]
    return listener_pb2.Listener(name=name, filter_chains=[listener_components_pb2.FilterChain(filters=filters)])


def filters_of(made: listener_pb2.Listener) -> list[str]:
    manager = hcm_pb2.HttpConnectionManager.FromString(made.filter_chains[0].filters[0].typed_config.value)
    return [each.name for each in manager.http_filters]


@pytest.fixture
def extension() -> Extension:
    return Extension(JOINTS)


def carried(*clusters: cluster_pb2.Cluster) -> dict[str, str]:
    """What Envoy is told of them: the names that it asks endpoints for, by cluster."""
    told, _ = Extension(JOINTS).translation(clusters, [], [])
    return {each.name: each.eds_cluster_config.service_name for each in told}


def test_a_rules_only_pool_is_led_to_by_the_pools_own_cluster(extension: Extension) -> None:
    """And the picker asked that the pool names."""
    rule = backends((RED, 1))
    made = extension.route(route((RULE, 1)), [RED], rule)
    assert leads_to(made) == {TO_RED: 1}
    assert asked_for(made) == {TO_RED: (str(RED.name), "inferencepicker/default/picker/9002")}
    assert carried(extension.cluster(cluster_pb2.Cluster(name=RULE), [RED], rule)) == {RULE: "", TO_RED: str(RED.name)}


def test_a_pool_has_one_cluster_for_all_rules(extension: Extension) -> None:
    """Whose endpoints Envoy knows already when a rule moves, or gets another backend."""
    first = extension.cluster(cluster_pb2.Cluster(name=RULE), [RED], backends((RED, 1)))
    second = extension.cluster(cluster_pb2.Cluster(name=NEXT_RULE), [RED, BLUE], backends((RED, 1), (BLUE, 1)))
    assert set(carried(first, second)) == {RULE, NEXT_RULE, TO_RED, TO_BLUE}
    assert extension.route(route((NEXT_RULE, 1)), [RED], backends((RED, 1))).route.cluster == TO_RED


def test_a_rule_that_has_just_gone_leads_to_what_is_known_of_it(extension: Extension) -> None:
    """Until Envoy Gateway has noticed, too."""
    assert leads_to(extension.route(route((RULE, 1)), [RED], [])) == {TO_RED: 1}
    assert set(carried(extension.cluster(cluster_pb2.Cluster(name=RULE), [RED], []))) == {RULE, TO_RED}


def test_pools_share_by_the_weights_of_the_http_route(extension: Extension) -> None:
    """Each by its own cluster and its own picker's word."""
    rule = backends((RED, 1), (BLUE, 3))
    made = extension.route(route((RULE, 1)), [RED, BLUE], rule)
    assert leads_to(made) == {TO_BLUE: 3, TO_RED: 1}
    told = {name: told for name, (told, _) in asked_for(made).items()}
    assert told == {TO_BLUE: str(BLUE.name), TO_RED: str(RED.name)}
    cluster = extension.cluster(cluster_pb2.Cluster(name=RULE), [RED, BLUE], rule)
    assert carried(cluster) == {RULE: "", TO_RED: str(RED.name), TO_BLUE: str(BLUE.name)}


def test_a_service_beside_a_pool_keeps_envoy_gateways_own_cluster(extension: Extension) -> None:
    """Its endpoints are in there, and its share does not ask the picker."""
    rule = backends((RED, 1), (None, 4))
    made = extension.route(route((RULE, 1)), [RED], rule)
    assert leads_to(made) == {TO_RED: 1, RULE: 4}
    assert set(asked_for(made)) == {TO_RED}


def test_backends_with_clusters_of_their_own_are_told_apart(extension: Extension) -> None:
    """By their place in the rule."""
    rule = backends((None, 1), (RED, 2))
    names = [f"{RULE}/backend/{index}" for index in range(2)]
    made = extension.route(route((names[0], 1), (names[1], 2)), [RED], rule)
    assert leads_to(made) == {names[0]: 1, TO_RED: 2}
    assert set(asked_for(made)) == {TO_RED}
    assert set(carried(extension.cluster(cluster_pb2.Cluster(name=names[0]), [RED], rule))) == {names[0]}
    assert set(carried(extension.cluster(cluster_pb2.Cluster(name=names[1]), [RED], rule))) == {names[1], TO_RED}


def test_the_share_of_a_missing_pool_leads_nowhere(extension: Extension) -> None:
    """And the others keep theirs."""
    made = extension.route(route((RULE, 1)), [RED], backends((RED, 1), (GONE, 2)))
    assert leads_to(made) == {TO_RED: 1, NO_BACKEND_CLUSTER: 2}
    assert made.route.cluster_not_found_response_code == route_components_pb2.RouteAction.INTERNAL_SERVER_ERROR


def test_a_share_that_envoy_gateway_has_set_aside_already_stays(extension: Extension) -> None:
    """Under its own name for what is invalid."""
    made = extension.route(route((RULE, 1), ("invalid-backend-cluster", 2)), [RED], backends((RED, 1), (GONE, 2)))
    assert leads_to(made) == {TO_RED: 1, "invalid-backend-cluster": 2}


def test_a_backend_of_weight_zero_gets_nothing(extension: Extension) -> None:
    """As the Gateway API says."""
    rule = backends((RED, 0), (BLUE, 1))
    assert list(leads_to(extension.route(route((RULE, 1)), [RED, BLUE], rule))) == [TO_BLUE]
    # But its cluster is there, for the day that it gets some.
    assert TO_RED in carried(extension.cluster(cluster_pb2.Cluster(name=RULE), [RED, BLUE], rule))


def test_a_route_without_pools_is_left_alone(extension: Extension) -> None:
    """Byte for byte."""
    untouched = route((RULE, 1))
    assert extension.route(untouched, [], []) == untouched
    assert extension.cluster(cluster_pb2.Cluster(name=RULE), [], []) == cluster_pb2.Cluster(name=RULE)


def test_a_shared_picker_serves_the_namespaces_that_it_is_shared_with(extension: Extension) -> None:
    """And no others."""
    for namespace, asked in (("team", "ai"), ("other", "other")):
        its = pool("red", namespace)
        made = extension.route(route((RULE, 1)), [its], backends((its, 1)))
        [(_, picker)] = asked_for(made).values()
        assert picker == f"inferencepicker/{asked}/picker/9002"


def configuration(name: str, *routes: route_components_pb2.Route) -> route_pb2.RouteConfiguration:
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[route_components_pb2.VirtualHost(routes=routes)])


def test_the_filter_goes_into_the_listeners_that_have_a_pool_and_no_others(extension: Extension) -> None:
    """Once, before the router; with the picker's cluster beside it."""
    pooled = extension.route(route((RULE, 1)), [RED], backends((RED, 1)))
    configurations = [configuration("llm", pooled, pooled), configuration("http", route(("x", 1)))]
    clusters, listeners = extension.translation([], [listener("llm"), listener("http")], configurations)
    assert [filters_of(each) for each in listeners] == [
        [FILTER_NAME, "envoy.filters.http.router"],
        ["envoy.filters.http.router"],
    ]
    assert [each.name for each in clusters] == ["inferencepicker/default/picker/9002"]
    # Envoy asks by the same name where the picker's replicas are.
    assert clusters[0].eds_cluster_config.service_name == clusters[0].name


def test_a_second_pass_changes_nothing(extension: Extension) -> None:
    """Bytes that differ would have Envoy drain its listeners."""
    pooled = extension.route(route((RULE, 1)), [RED, BLUE], backends((RED, 1), (BLUE, 1)))
    clusters = [extension.cluster(cluster_pb2.Cluster(name=RULE), [BLUE, RED], backends((RED, 1), (BLUE, 1)))]
    once = extension.translation(clusters, [listener("llm")], [configuration("llm", pooled)])
    twice = extension.translation(*once, [configuration("llm", pooled)])
    assert twice == once


def modes_of(made: route_components_pb2.Route) -> processing_mode_pb2.ProcessingMode:
    override = ext_proc_pb2.ExtProcPerRoute.FromString(made.typed_per_filter_config[FILTER_NAME].value)
    return override.overrides.processing_mode


def test_another_implementations_picker_is_given_bodies_as_the_protocol_says(extension: Extension) -> None:
    """Streamed, for it answers the headers only when it has the body; ours says as much without that expense."""
    rule = backends((RED, 1))
    streamed = extension.route(route((RULE, 1)), [RED], rule, strangers={ObjectName("default", "picker")})
    assert modes_of(streamed).request_body_mode == processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
    assert modes_of(extension.route(route((RULE, 1)), [RED], rule)) == processing_mode_pb2.ProcessingMode()


class Services:
    """Pickers' Services that a test writes down."""

    def __init__(self, *ours: ObjectName) -> None:
        self.ours = ours

    def places(self, picker: PickerName) -> PickerPlaces | None: ...

    async def is_own_picker(self, service: ObjectName) -> bool:
        return service in self.ours

    def listen(self, listener: Callable[[MembershipChange], None]) -> None: ...


class Lookup:
    """Rules that a test writes down."""

    def __init__(self, found: Sequence[RuleBackend] | None) -> None:
        self.found = found

    async def backends(self, rule: RuleName) -> Sequence[RuleBackend]:
        if self.found is None:
            raise LookupFailed("the API server is away")
        assert rule == RuleName(ObjectName("default", "chat"), 0, None)
        return self.found

    def forget(self) -> None: ...


def as_written(annotations: dict[str, str] | None = None) -> bytes:
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


async def route_modified(lookup: Lookup, written: bytes, *ours: ObjectName) -> route_components_pb2.Route:
    """What a server says over gRPC. `ours`: the pickers that are."""
    server = ExtensionServer(Extension(JOINTS), lookup, Services(*ours), "127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/PostRouteModify",
                request_serializer=service_pb2.PostRouteModifyRequest.SerializeToString,
                response_deserializer=service_pb2.PostRouteModifyResponse.FromString,
            )
            context = service_pb2.PostRouteExtensionContext(
                extension_resources=[service_pb2.ExtensionResource(unstructured_bytes=written)]
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
async def test_the_server_reads_pools_as_an_api_server_writes_them(annotations: dict[str, str]) -> None:
    """A wrong annotation is the picker's affair; fields of later versions are nobody's."""
    made = await route_modified(Lookup(backends((RED, 1))), as_written(annotations))
    assert asked_for(made)[TO_RED][0] == str(RED.name)


async def test_the_server_tells_our_pickers_from_others() -> None:
    """By their Services."""
    lookup = Lookup(backends((RED, 1)))
    ours = await route_modified(lookup, as_written(), ObjectName("default", "picker"))
    theirs = await route_modified(lookup, as_written(), ObjectName("other", "picker"))
    assert [modes_of(each).request_body_mode != 0 for each in (ours, theirs)] == [False, True]


async def test_a_failed_lookup_is_told_so_that_envoy_gateway_keeps_what_it_had() -> None:
    """And tries again."""
    with pytest.raises(grpc.aio.AioRpcError, match="HTTPRoute default/chat: the API server is away") as raised:
        await route_modified(Lookup(None), as_written())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_pool_that_cannot_be_served_is_left_to_envoy_gateway() -> None:
    """Whose cluster has no endpoints."""
    wrong = as_written().replace(b'"name": "picker"', b'"name": "picker", "kind": "Gateway"')
    made = await route_modified(Lookup(()), wrong)
    assert asked_for(made) == {}


def test_a_picker_that_asks_for_tls_is_asked_with_it_and_no_other(extension: Extension) -> None:
    """Its certificate checked for the name that its cluster calls."""
    extension.picker_tls = PickerTls(ObjectName("default", "picker"), b"authority", b"certificate", b"key")
    other = pool("other", picker="theirs")
    routes = [extension.route(route((RULE, 1)), [each], backends((each, 1))) for each in (RED, other)]
    clusters, _ = extension.translation([], [listener("llm")], [configuration("llm", *routes)])
    ours, theirs = sorted(clusters, key=lambda each: "theirs" in each.name)
    [by_tls] = ours.transport_socket_matches
    context = tls_pb2.UpstreamTlsContext.FromString(by_tls.transport_socket.typed_config.value)
    assert context.sni == "picker.default.svc.cluster.local"
    common = context.common_tls_context
    assert common.validation_context.match_typed_subject_alt_names[0].matcher.exact == context.sni
    assert common.tls_certificates[0].private_key.inline_bytes == b"key"
    assert b"PRIVATE" not in theirs.SerializeToString()
    # Only endpoints that are marked are asked by TLS: replicas may differ.
    for each in (ours, theirs):
        assert not each.HasField("transport_socket")
        assert [match.match["tls"] for match in each.transport_socket_matches] == [True]


async def translated(tls: Callable[[], ServerTls] | None, channel: grpc.ChannelCredentials | None) -> bytes:
    """What the server answers a whole translation with a route to the pool."""
    extension = Extension(JOINTS)
    extension.picker_tls = PickerTls(ObjectName("default", "picker"), b"authority", b"certificate", b"SECRET KEY")
    routes = [extension.route(route((RULE, 1)), [RED], backends((RED, 1)))]
    server = ExtensionServer(extension, Lookup(()), Services(), "127.0.0.1:0", tls)
    await server.start()
    address = f"localhost:{server.port}"
    try:
        async with (
            grpc.aio.secure_channel(address, channel) if channel is not None else grpc.aio.insecure_channel(address)
        ) as opened:
            call = opened.unary_unary(
                f"/{SERVICE}/PostTranslateModify",
                request_serializer=service_pb2.PostTranslateModifyRequest.SerializeToString,
                response_deserializer=service_pb2.PostTranslateModifyResponse.FromString,
            )
            written = [configuration("llm", *routes).SerializeToString()]
            return (await call(service_pb2.PostTranslateModifyRequest(routes=written), timeout=5)).SerializeToString()
    finally:
        await server.stop()


async def test_a_caller_that_shows_no_certificate_gets_no_key() -> None:
    """Of a server in plain text."""
    answer = await translated(None, None)
    assert b"inferencepicker/default/picker/9002" in answer
    assert b"SECRET KEY" not in answer


@pytest.mark.parametrize(("shown", "answered"), [("own", True), ("foreign", False), ("none", False), ("plain", False)])
async def test_with_tls_only_a_client_of_the_same_authority_is_answered(shown: str, answered: bool) -> None:
    """And it gets the key, which Envoy needs."""
    now = datetime.now(UTC)
    authority = new_authority(now)
    own, server = issue(authority, "envoy-gateway", [], now), issue(authority, "extension", ["localhost"], now)
    foreign = issue(new_authority(now), "envoy-gateway", [], now)
    client = {"own": own, "foreign": foreign}.get(shown)
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
        await translated(lambda: tls, credentials if shown != "plain" else None)


def test_a_route_to_a_pool_with_an_expression_that_envoy_rejects_matches_nothing(extension: Extension) -> None:
    """Envoy would reject all routes of the listener for it."""
    broken = route((RULE, 1))
    broken.match.safe_regex.SetInParent()
    made = extension.route(broken, [RED], backends((RED, 1)))
    assert made.match.safe_regex.regex == NEVER
    assert leads_to(made) == {TO_RED: 1}


def silent_for(made: Sequence[route_pb2.RouteConfiguration]) -> list[float | None]:
    """How long a stream of each route may be silent; None where the listener says, or Envoy."""
    actions = [each.route for configuration in made for host in configuration.virtual_hosts for each in host.routes]
    return [each.idle_timeout.seconds if each.HasField("idle_timeout") else None for each in actions]


def both_routes(extension: Extension, name: str, **action: object) -> route_pb2.RouteConfiguration:
    """One to a pool, and one to a Service."""
    to_pool = extension.route(route((RULE, 1)), [RED], backends((RED, 1)))
    to_pool.route.MergeFrom(route_components_pb2.RouteAction(**action))  # pyright: ignore[reportArgumentType]
    host = route_components_pb2.VirtualHost(routes=[to_pool, route((NEXT_RULE, 1))])
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[host])


def test_a_stream_to_a_pool_may_be_silent_and_one_to_a_service_as_before(extension: Extension) -> None:
    assert silent_for(extension.routes([listener("a")], [both_routes(extension, "a")])) == [0, None]


def test_a_silence_that_the_route_limits_stays_limited(extension: Extension) -> None:
    made = both_routes(extension, "a", idle_timeout=duration(7))
    assert silent_for(extension.routes([listener("a")], [made])) == [7, None]


def test_a_silence_that_the_listener_limits_stays_limited(extension: Extension) -> None:
    limiting = listener("a")
    filter_ = limiting.filter_chains[0].filters[0]
    manager = hcm_pb2.HttpConnectionManager.FromString(filter_.typed_config.value)
    manager.stream_idle_timeout.CopyFrom(duration(60))
    filter_.typed_config.CopyFrom(pack_any(manager))
    assert silent_for(extension.routes([limiting], [both_routes(extension, "a")])) == [None, None]


@dataclass(frozen=True)
class Header:
    name: str
    value: str


@dataclass(frozen=True)
class Changes:
    set: Sequence[Header] = ()
    add: Sequence[Header] = ()
    remove: Sequence[str] = ()


def changed(made: route_components_pb2.Route) -> list[tuple[str, int, list[str], list[str]]]:
    """Of each share: where it goes, its weight, the request headers that it sets or adds, and those that it removes."""
    return [
        (
            each.name,
            each.weight.value,
            [f"{option.header.key}: {option.header.value}" for option in each.request_headers_to_add],
            list(each.request_headers_to_remove),
        )
        for each in made.route.weighted_clusters.clusters
    ]


def test_filters_of_a_rules_only_pool_change_its_headers(extension: Extension) -> None:
    changes = Changes([Header("a", "1%")], [Header("b", "2")], ["c"])
    made = extension.route(route((RULE, 1)), [RED], [RuleBackend(RED.name, 1, (changes,))])
    assert changed(made) == [(TO_RED, 1, ["a: 1%%", "b: 2"], ["c"])]
    assert asked_for(made).keys() == {TO_RED}


def test_each_backend_of_a_pool_changes_headers_by_its_own_filters(extension: Extension) -> None:
    one, two = Changes([Header("a", "1")]), Changes([Header("a", "2")])
    rule = [RuleBackend(RED.name, 1, (one,)), RuleBackend(RED.name, 2, (two,)), RuleBackend(RED.name, 4)]
    made = extension.route(route((RULE, 1)), [RED], rule)
    assert sorted(changed(made)) == [(TO_RED, 1, ["a: 1"], []), (TO_RED, 2, ["a: 2"], []), (TO_RED, 4, [], [])]


def test_a_backend_with_a_cluster_of_its_own_changes_headers_by_its_filters(extension: Extension) -> None:
    rule = [RuleBackend(RED.name, 3), RuleBackend(BLUE.name, 1, (Changes(remove=["c"]),))]
    given = route((f"{RULE}/backend/0", 3), (f"{RULE}/backend/1", 1))
    made = extension.route(given, [RED, BLUE], rule)
    assert changed(made) == [(TO_RED, 3, [], []), (TO_BLUE, 1, [], ["c"])]


def test_changes_of_answers_are_made_on_the_way_back(extension: Extension) -> None:
    rule = [RuleBackend(RED.name, 1, (), (Changes(remove=["server"]),))]
    [share] = extension.route(route((RULE, 1)), [RED], rule).route.weighted_clusters.clusters
    assert list(share.response_headers_to_remove) == ["server"]


@pytest.mark.parametrize("header", [Header("Host", "x"), Header("a", "x\ny"), Header("a b", "x"), Header(":path", "/")])
def test_changes_that_envoy_rejects_are_left_out(extension: Extension, header: Header) -> None:
    changes = Changes([header], [header], [header.name] if header.name != "a" else [])
    made = extension.route(route((RULE, 1)), [RED], [RuleBackend(RED.name, 1, (changes,))])
    assert changed(made) == [(TO_RED, 1, [], [])]
