"""What a pool's status says."""

from collections.abc import Mapping

import msgspec
import pytest
from picker.controller.api_objects import HTTPRoute, Service, read_grpc_route, read_pool_route, read_route, read_service
from picker.controller.pool_status import PickerReference, accepted, parents, partially_invalid, resolved, strategy
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ObjectName, PoolName
from picker.resources.pool_wire import STRATEGY_ANNOTATION

OURS, THEIRS = "gateway.envoyproxy.io/gatewayclass-controller", "istio.io/gateway-controller"
POOL = PoolName(POOL_GROUP_V1, "default", "red")
PICKER = PickerReference("", "Service", ObjectName("default", "picker"), 9002)


def route(
    name: str = "a",
    gateways: tuple[str, ...] = ("gw",),
    controller: str = OURS,
    accepted: str = "True",
    pool: str = "red",
) -> HTTPRoute:
    backend = {"group": POOL_GROUP_V1, "kind": "InferencePool", "name": pool}
    told = [
        {
            "parentRef": {"name": gateway, "sectionName": "llm"},
            "controllerName": controller,
            "conditions": [{"type": "Accepted", "status": accepted, "reason": "Accepted"}],
        }
        for gateway in gateways
    ]
    return read_route(
        {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "parentRefs": [{"name": gateway} for gateway in gateways],
                "rules": [{"backendRefs": [backend], "filters": [{"type": "URLRewrite"}]}],
            },
            "status": {"parents": told},
        }
    )


def test_the_parents_are_the_gateways_whose_routes_lead_to_the_pool() -> None:
    """Of our controller, each once, in a stable order."""
    routes = [route("a", ("second", "first")), route("b", ("first",)), route("c", ("other",), pool="blue")]
    assert list(parents(POOL, routes, OURS)) == [ObjectName("default", "first"), ObjectName("default", "second")]
    assert parents(POOL, [route(controller=THEIRS)], OURS) == {}


def test_a_parent_that_the_route_no_longer_names_is_none() -> None:
    """Its status may still tell of it for a moment."""
    moved = route(gateways=("new",))
    left = HTTPRoute(moved.metadata, moved.spec, route(gateways=("old",)).status)
    assert parents(POOL, [left], OURS) == {}


def test_one_accepted_route_is_enough() -> None:
    """For the Gateway to take the pool."""
    gateway = ObjectName("default", "gw")
    assert parents(POOL, [route("a", accepted="False"), route("b")], OURS) == {gateway: True}
    assert parents(POOL, [route("a", accepted="False")], OURS) == {gateway: False}


@pytest.mark.parametrize(
    ("group", "picker", "route_accepted", "reason"),
    [
        (POOL_GROUP_V1, PICKER, True, "Accepted"),
        (POOL_GROUP_V1, PICKER, False, "HTTPRouteNotAccepted"),
        (POOL_GROUP_V1ALPHA2, PICKER, False, "NotSupportedByGateway"),
        (POOL_GROUP_V1, None, True, "EndpointPickerRefMissing"),
    ],
)
def test_accepted_has_the_reasons_of_its_version(
    group: str, picker: PickerReference | None, route_accepted: bool, reason: str
) -> None:
    """v1alpha2 knows fewer."""
    finding = accepted(PoolName(group, "default", "red"), picker, route_accepted)
    assert (finding.holds, finding.reason) == (reason == "Accepted", reason)


def service(kind: str = "ClusterIP", *ports: int) -> dict[ObjectName, Service]:
    spec = {"type": kind, "ports": [{"port": port, "name": "grpc"} for port in ports]}
    return {PICKER.service: read_service({"metadata": {}, "spec": spec})}


@pytest.mark.parametrize(
    ("picker", "services", "told"),
    [
        (PICKER, service("ClusterIP", 9002), None),
        (PICKER, {}, "There is no Service default/picker."),
        (PICKER, service("ExternalName", 9002), "is an ExternalName"),
        (PICKER, service("ClusterIP", 80), "has no port 9002; it has 80"),
        (PickerReference("example.com", "Picker", PICKER.service, 1), {}, "a Picker of group example.com"),
        (None, {}, None),
    ],
)
def test_what_a_pool_refers_to_is_resolved_or_named(
    picker: PickerReference | None, services: dict[ObjectName, Service], told: str | None
) -> None:
    """What was found, and what is allowed."""
    finding = resolved(picker, services)
    assert finding.holds == (told is None)
    assert told is None or told in finding.message


def test_a_condition_that_still_says_the_same_keeps_its_time() -> None:
    """`lastTransitionTime` is of the status, not of the write."""
    finding = resolved(PICKER, service("ClusterIP", 9002))
    before = [{"type": "ResolvedRefs", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    assert finding.condition(2, "2026-02-02T00:00:00Z", before).last_transition_time == "2026-01-01T00:00:00Z"
    assert finding.condition(2, "2026-02-02T00:00:00Z", []).last_transition_time == "2026-02-02T00:00:00Z"


def test_routes_without_pools_are_not_kept() -> None:
    """Most routes of a cluster."""
    spec = {"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}
    assert read_pool_route({"metadata": {"name": "a", "namespace": "b"}, "spec": spec}) is None


BACKEND = {"group": POOL_GROUP_V1, "kind": "InferencePool", "name": "red"}


def written(*rules: Mapping[str, object]) -> dict[str, object]:
    """A route as the API server gives it."""
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": {"rules": list(rules)}}


def invalid(*rules: Mapping[str, object]) -> str:
    """What is said of an HTTPRoute with these rules."""
    found = partially_invalid(POOL, [read_route(written(*rules))])
    return found.message if found is not None else ""


def test_a_route_that_asks_for_what_is_served_is_whole() -> None:
    match = {"path": {"type": "RegularExpression", "value": "/v1/.*"}, "headers": [{"name": "x", "value": "("}]}
    assert invalid({"backendRefs": [BACKEND], "matches": [match], "filters": [{"type": "URLRewrite"}]}) == ""


def test_header_changes_of_a_backend_are_served() -> None:
    changes = {"set": [{"name": "x", "value": "y"}], "remove": ["z"]}
    backend = BACKEND | {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": changes}]}
    assert invalid({"backendRefs": [backend]}) == ""


def test_other_filters_of_a_backend_are_reported() -> None:
    backend = BACKEND | {"filters": [{"type": "URLRewrite"}]}
    assert "rule 0: filters of the backendRef are ignored: URLRewrite." in invalid({"backendRefs": [backend]})


@pytest.mark.parametrize("changed", [{"name": "Host", "value": "y"}, {"name": "x", "value": "a\nb"}])
def test_a_header_that_envoy_does_not_change_is_reported(changed: dict[str, str]) -> None:
    backend = BACKEND | {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [changed]}}]}
    assert f"does not change: {changed['name']}." in invalid({"backendRefs": [backend]})


def test_a_mirror_to_a_pool_is_reported() -> None:
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": BACKEND}}
    assert "not mirrored to pools" in invalid({"backendRefs": [{"name": "service", "port": 1}], "filters": [mirror]})


@pytest.mark.parametrize("expression", ["", "(?=a)"])
@pytest.mark.parametrize("place", ["path", "headers", "queryParams"])
def test_an_expression_that_re2_rejects_is_reported(place: str, expression: str) -> None:
    written = {"name": "x", "type": "RegularExpression", "value": expression}
    match = {place: written if place == "path" else [written]}
    assert "is no expression of RE2" in invalid({"backendRefs": [BACKEND], "matches": [match]})


def test_a_grpc_route_is_reported_and_accepts_nothing() -> None:
    rule = {"backendRefs": [BACKEND], "matches": [{"method": {"service": "s"}}]}
    grpc = read_grpc_route(written(rule) | {"status": {"parents": []}})
    assert grpc is not None
    found = partially_invalid(POOL, [grpc])
    assert found is not None
    assert found.message == "GRPCRoute default/a: GRPCRoutes to pools are not served."


def test_a_grpc_routes_gateway_is_a_parent_that_does_not_accept_the_pool() -> None:
    """Or the pool would have no status to say so."""
    http = route()
    grpc = msgspec.structs.replace(http, is_grpc=True)
    assert parents(POOL, [grpc], OURS) == {ObjectName("default", "gw"): False}
    assert parents(POOL, [grpc, http], OURS) == {ObjectName("default", "gw"): True}


def test_however_much_is_wrong_the_message_is_bounded() -> None:
    backend = BACKEND | {"filters": [{"type": "x" * 1000}]}
    assert len(invalid(*[{"backendRefs": [backend]}] * 200)) <= 1024


@pytest.mark.parametrize(
    ("annotations", "holds", "reason"),
    [
        ({}, True, "DEFAULT"),
        ({STRATEGY_ANNOTATION: "LEAST_REQUEST"}, True, "LEAST_REQUEST"),
        ({STRATEGY_ANNOTATION: "NONSENSE"}, False, "UnknownStrategy"),
        ({STRATEGY_ANNOTATION: "x" * 200_000}, False, "UnknownStrategy"),
    ],
)
def test_the_strategys_condition_names_the_one_in_force(annotations: dict[str, str], holds: bool, reason: str) -> None:
    found = strategy(annotations)
    assert (found.holds, found.reason) == (holds, reason)
    assert len(found.message) < 1024
