"""Translation of the rules of HTTPRoutes to Envoy's routes."""

import pytest
from envoy.config.route.v3 import route_components_pb2
from gateway_objects import config, gateway, policy, pool, route, service, to_pool, to_service
from hypothesis import given
from hypothesis import strategies as st
from picker.resources.gateway_api import PathMatch, RouteMatch
from picker.xds.clusters import INVALID_BACKEND_CLUSTER
from picker.xds.ext_proc_filter import FILTER_NAME
from picker.xds.hostnames import common_hostname
from picker.xds.route_matches import precedence

GATEWAY = gateway({"name": "http", "port": 80})
V1ALPHA2 = "inference.networking.x-k8s.io"
POOL_CLUSTER = f"inferencepool/{V1ALPHA2}/default/a"
GATEWAY_TARGET: dict[str, object] = {"kind": "Gateway", "name": "gw"}
ROUTE_TARGET: dict[str, object] = {"kind": "HTTPRoute", "name": "r"}


def translated_routes(*texts: str) -> list[route_components_pb2.Route]:
    """Returns the routes of the only virtual host, in Envoy's order."""
    [configuration] = config(GATEWAY, pool("a"), pool("b"), service("s"), *texts).route_configurations
    [host] = configuration.virtual_hosts
    return list(host.routes)


def matching(*matches: dict[str, object], backend: dict[str, object] | None = None) -> dict[str, object]:
    return {"matches": list(matches), "backendRefs": [backend or to_pool("a")]}


def path(kind: str, value: str) -> dict[str, object]:
    return {"path": {"type": kind, "value": value}}


def test_rule_with_one_pool_gets_its_cluster_and_the_filter() -> None:
    [only] = translated_routes(route({"backendRefs": [to_pool("a")]}))
    assert only.route.cluster == POOL_CLUSTER
    assert FILTER_NAME in only.typed_per_filter_config
    assert only.request_body_buffer_limit.value > 1 << 20


def test_port_in_a_reference_to_a_pool_is_ignored() -> None:
    [only] = translated_routes(route({"backendRefs": [to_pool("a", port=1234)]}))
    assert only.route.cluster == POOL_CLUSTER


def test_rule_with_a_service_has_no_filter() -> None:
    [only] = translated_routes(route({"backendRefs": [to_service("s")]}))
    assert only.route.cluster == "service/default/s/80"
    assert not only.typed_per_filter_config
    assert not only.HasField("request_body_buffer_limit")
    assert not only.route.HasField("retry_policy")


def test_weighted_pools_send_their_own_names_to_the_picker() -> None:
    backends = [to_pool("a", weight=3), to_pool("b"), to_service("s"), to_service("s", weight=0)]
    [only] = translated_routes(route({"backendRefs": backends}))
    weighted = {cluster.name: cluster for cluster in only.route.weighted_clusters.clusters}
    assert [cluster.weight.value for cluster in weighted.values()] == [3, 1, 1]
    for name in "ab":
        override = weighted[f"inferencepool/{V1ALPHA2}/default/{name}"].typed_per_filter_config[FILTER_NAME]
        assert f"{V1ALPHA2}/default/{name}".encode() in override.value
    assert not weighted["service/default/s/80"].typed_per_filter_config
    assert not only.typed_per_filter_config


@pytest.mark.parametrize(
    "backends",
    [[], [to_pool("gone")], [to_service("gone")], [to_service("s", port=81)], [to_pool("a", weight=0)]],
    ids=["none", "no such pool", "no such Service", "no such port", "no weight"],
)
def test_rule_without_a_backend_responds_500(backends: list[dict[str, object]]) -> None:
    [only] = translated_routes(route({"backendRefs": backends}))
    assert only.direct_response.status == 500


def test_missing_backend_keeps_its_share() -> None:
    [only] = translated_routes(route({"backendRefs": [to_pool("a"), to_pool("gone")]}))
    assert [cluster.name for cluster in only.route.weighted_clusters.clusters] == [
        POOL_CLUSTER,
        INVALID_BACKEND_CLUSTER,
    ]
    assert only.route.cluster_not_found_response_code == only.route.INTERNAL_SERVER_ERROR


def test_most_specific_match_comes_first() -> None:
    first = route(
        matching(path("PathPrefix", "/")),
        matching({**path("PathPrefix", "/v1"), "headers": [{"name": "b", "value": "1"}]}),
        matching(path("PathPrefix", "/v1/chat")),
        name="a",
    )
    second = route(
        matching({**path("PathPrefix", "/v1"), "method": "POST"}),
        matching(path("Exact", "/v1"), path("RegularExpression", "/v./.*")),
        name="b",
    )
    order = [translated.name for translated in translated_routes(first, second)]
    assert order == [translated.name for translated in translated_routes(second, first)]
    assert [name.removeprefix("httproute/default/") for name in order] == [
        "b/rule/1/match/0",
        "b/rule/1/match/1",
        "a/rule/2/match/0",
        "b/rule/0/match/0",
        "a/rule/1/match/0",
        "a/rule/0/match/0",
    ]


def test_equal_matches_are_ordered_by_age_then_name() -> None:
    rule = matching(path("PathPrefix", "/v1"))
    old = route(rule, name="z").replace("name: z", "name: z\n  creationTimestamp: '2024-01-01T00:00:00Z'")
    new = route(rule, name="a").replace("name: a", "name: a\n  creationTimestamp: '2025-01-01T00:00:00Z'", 1)
    assert [translated.name.split("/")[2] for translated in translated_routes(new, old)] == ["z", "a"]
    assert [
        translated.name.split("/")[2] for translated in translated_routes(route(rule, name="y"), route(rule, name="x"))
    ] == ["x", "y"]


def test_prefix_matches_whole_path_elements() -> None:
    [only] = translated_routes(route(matching(path("PathPrefix", "/v1/"))))
    assert only.match.path_separated_prefix == "/v1"
    [everything] = translated_routes(route(matching(path("PathPrefix", "/"))))
    assert everything.match.prefix == "/"


@given(st.text("abc/", min_size=1), st.text("abc/", min_size=1))
def test_longer_prefix_wins(one: str, other: str) -> None:
    ranks = [precedence(RouteMatch(path=PathMatch(type="PathPrefix", value=f"/{prefix}"))) for prefix in (one, other)]
    assert (ranks[0] < ranks[1]) == (len(one) > len(other))


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        ([], 0),
        ([policy(GATEWAY_TARGET, http={"requestTimeout": "1h"})], 3600),
        ([policy({**GATEWAY_TARGET, "sectionName": "http"}, http={"requestTimeout": "1m"})], 60),
        ([policy({**GATEWAY_TARGET, "sectionName": "other"}, http={"requestTimeout": "1m"})], 0),
        (
            [
                policy(GATEWAY_TARGET, "far", http={"requestTimeout": "1h"}),
                policy(ROUTE_TARGET, "near", http={"requestTimeout": "10s"}),
            ],
            10,
        ),
    ],
    ids=["none", "the Gateway's", "the listener's", "another listener's", "the route's over the Gateway's"],
)
def test_only_applicable_policies_set_the_timeout(texts: list[str], seconds: int) -> None:
    [only] = translated_routes(route({"backendRefs": [to_pool("a")]}), *texts)
    assert only.route.HasField("timeout")
    assert only.route.timeout.seconds == seconds


def test_timeout_of_the_rule_precedes_the_policy() -> None:
    [only] = translated_routes(
        route({"backendRefs": [to_pool("a")], "timeouts": {"request": "5s", "backendRequest": "1s"}}),
        policy(GATEWAY_TARGET, http={"requestTimeout": "1h"}),
    )
    assert only.route.timeout.seconds == 5
    assert only.route.retry_policy.per_try_timeout.seconds == 1


def test_single_try_gets_the_shorter_timeout() -> None:
    [only] = translated_routes(
        route({"backendRefs": [to_service("s")], "timeouts": {"request": "5s", "backendRequest": "1s"}})
    )
    assert only.route.timeout.seconds == 1
    assert not only.route.HasField("retry_policy")


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("a.com", None, "a.com"),
        ("a.com", "a.com", "a.com"),
        ("a.b.com", "*.b.com", "a.b.com"),
        ("*.b.com", "a.b.com", "a.b.com"),
        ("*.a.b.com", "*.b.com", "*.a.b.com"),
        ("b.com", "*.b.com", None),
        ("a.com", "b.com", None),
        ("xb.com", "*.b.com", None),
    ],
)
def test_common_hostname_is_the_more_specific_one(one: str, other: str | None, common: str | None) -> None:
    assert common_hostname(one, other) == common
