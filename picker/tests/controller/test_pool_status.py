"""The status of a pool."""

from collections.abc import Mapping

import msgspec
import pytest
from picker.controller.api_objects import HTTPRoute, Service, read_grpc_route, read_pool_route, read_route, read_service
from picker.controller.pool_status import (
    PickerReference,
    accepted,
    exported,
    parents,
    partially_invalid,
    pool_conditions,
    resolved,
    settings,
    strategy,
)
from picker.resources.inference import RoutingStrategy
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ObjectName, PoolName
from picker.resources.pool_annotations import EXPORT_ANNOTATION, PREFIX, STRATEGY_ANNOTATION

OWN, FOREIGN = "gateway.envoyproxy.io/gatewayclass-controller", "istio.io/gateway-controller"
POOL = PoolName(POOL_GROUP_V1, "default", "red")
PICKER = PickerReference("", "Service", ObjectName("default", "picker"), 9002)


def route(
    name: str = "a",
    gateways: tuple[str, ...] = ("gw",),
    controller: str = OWN,
    accepted: str = "True",
    pool: str = "red",
) -> HTTPRoute:
    backend = {"group": POOL_GROUP_V1, "kind": "InferencePool", "name": pool}
    statuses = [
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
            "status": {"parents": statuses},
        }
    )


def test_parents_are_the_gateways_with_routes_to_the_pool() -> None:
    """Only those of the own controller count, each once, in a stable order."""
    routes = [route("a", ("second", "first")), route("b", ("first",)), route("c", ("other",), pool="blue")]
    assert list(parents(POOL, routes, OWN)) == [ObjectName("default", "first"), ObjectName("default", "second")]
    assert parents(POOL, [route(controller=FOREIGN)], OWN) == {}


def test_parent_that_the_route_no_longer_names_is_ignored() -> None:
    """The route's status may be stale for a moment."""
    moved = route(gateways=("new",))
    stale = HTTPRoute(moved.metadata, moved.spec, route(gateways=("old",)).status)
    assert parents(POOL, [stale], OWN) == {}


def test_one_accepted_route_is_enough() -> None:
    """The Gateway then accepts the pool."""
    gateway = ObjectName("default", "gw")
    assert parents(POOL, [route("a", accepted="False"), route("b")], OWN) == {gateway: True}
    assert parents(POOL, [route("a", accepted="False")], OWN) == {gateway: False}


@pytest.mark.parametrize(
    ("group", "picker", "route_accepted", "reason"),
    [
        (POOL_GROUP_V1, PICKER, True, "Accepted"),
        (POOL_GROUP_V1, PICKER, False, "HTTPRouteNotAccepted"),
        (POOL_GROUP_V1ALPHA2, PICKER, False, "NotSupportedByGateway"),
        (POOL_GROUP_V1, None, True, "EndpointPickerRefMissing"),
    ],
)
def test_accepted_has_the_reasons_of_its_api_version(
    group: str, picker: PickerReference | None, route_accepted: bool, reason: str
) -> None:
    """v1alpha2 has fewer reasons."""
    condition = accepted(PoolName(group, "default", "red"), picker, route_accepted)
    assert (condition.holds, condition.reason) == (reason == "Accepted", reason)


def service(kind: str = "ClusterIP", *ports: int) -> dict[ObjectName, Service]:
    spec = {"type": kind, "ports": [{"port": port, "name": "grpc"} for port in ports]}
    return {PICKER.service: read_service({"metadata": {}, "spec": spec})}


@pytest.mark.parametrize(
    ("picker", "services", "problem"),
    [
        (PICKER, service("ClusterIP", 9002), None),
        (PICKER, {}, "Service default/picker does not exist."),
        (PICKER, service("ExternalName", 9002), "is an ExternalName"),
        (PICKER, service("ClusterIP", 80), "has no port 9002; it has 80"),
        (PickerReference("example.com", "Picker", PICKER.service, 1), {}, "a Picker of group example.com"),
        (None, {}, None),
    ],
)
def test_unresolved_reference_is_named(
    picker: PickerReference | None, services: dict[ObjectName, Service], problem: str | None
) -> None:
    """The message has what was found and what is allowed."""
    condition = resolved(picker, services)
    assert condition.holds == (problem is None)
    assert problem is None or problem in condition.message


def test_unchanged_condition_keeps_its_time() -> None:
    """`lastTransitionTime` is the time of the change, not of the write."""
    condition = resolved(PICKER, service("ClusterIP", 9002))
    before = [{"type": "ResolvedRefs", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    assert condition.condition(2, "2026-02-02T00:00:00Z", before).last_transition_time == "2026-01-01T00:00:00Z"
    assert condition.condition(2, "2026-02-02T00:00:00Z", []).last_transition_time == "2026-02-02T00:00:00Z"


def test_route_without_a_pool_is_discarded() -> None:
    """Most routes of a cluster have none."""
    spec = {"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}
    assert read_pool_route({"metadata": {"name": "a", "namespace": "b"}, "spec": spec}) is None


BACKEND = {"group": POOL_GROUP_V1, "kind": "InferencePool", "name": "red"}


def route_object(*rules: Mapping[str, object]) -> dict[str, object]:
    """Returns a route as the API server returns it."""
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": {"rules": list(rules)}}


def invalid(*rules: Mapping[str, object]) -> str:
    """Returns the message on an HTTPRoute with these rules."""
    condition = partially_invalid(POOL, [read_route(route_object(*rules))])
    return condition.message if condition is not None else ""


def test_supported_route_has_no_problem() -> None:
    match = {"path": {"type": "RegularExpression", "value": "/v1/.*"}, "headers": [{"name": "x", "value": "("}]}
    assert invalid({"backendRefs": [BACKEND], "matches": [match], "filters": [{"type": "URLRewrite"}]}) == ""


def test_header_changes_of_a_backend_are_supported() -> None:
    changes = {"set": [{"name": "x", "value": "y"}], "remove": ["z"]}
    backend = BACKEND | {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": changes}]}
    assert invalid({"backendRefs": [backend]}) == ""


def test_other_filters_of_a_backend_are_reported() -> None:
    backend = BACKEND | {"filters": [{"type": "URLRewrite"}]}
    assert "rule 0: filters of the backendRef are ignored: URLRewrite." in invalid({"backendRefs": [backend]})


@pytest.mark.parametrize("header", [{"name": "Host", "value": "y"}, {"name": "x", "value": "a\nb"}])
def test_header_change_that_envoy_rejects_is_reported(header: dict[str, str]) -> None:
    backend = BACKEND | {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [header]}}]}
    assert f"header changes that Envoy rejects: {header['name']}." in invalid({"backendRefs": [backend]})


def test_mirror_to_a_pool_is_reported() -> None:
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": BACKEND}}
    assert "mirroring to pools is not supported" in invalid(
        {"backendRefs": [{"name": "service", "port": 1}], "filters": [mirror]}
    )


@pytest.mark.parametrize("expression", ["", "(?=a)"])
@pytest.mark.parametrize("place", ["path", "headers", "queryParams"])
def test_expression_that_re2_rejects_is_reported(place: str, expression: str) -> None:
    expression_match = {"name": "x", "type": "RegularExpression", "value": expression}
    match = {place: expression_match if place == "path" else [expression_match]}
    assert "is not a valid RE2 expression" in invalid({"backendRefs": [BACKEND], "matches": [match]})


def test_grpc_route_is_reported() -> None:
    rule = {"backendRefs": [BACKEND], "matches": [{"method": {"service": "s"}}]}
    grpc = read_grpc_route(route_object(rule) | {"status": {"parents": []}})
    assert grpc is not None
    condition = partially_invalid(POOL, [grpc])
    assert condition is not None
    assert condition.message == "GRPCRoute default/a: GRPCRoutes to pools are not supported."


def test_gateway_of_a_grpc_route_does_not_accept_the_pool() -> None:
    """It is a parent nevertheless, so that the pool has a status."""
    http = route()
    grpc = msgspec.structs.replace(http, is_grpc=True)
    assert parents(POOL, [grpc], OWN) == {ObjectName("default", "gw"): False}
    assert parents(POOL, [grpc, http], OWN) == {ObjectName("default", "gw"): True}


def test_message_length_is_bounded() -> None:
    backend = BACKEND | {"filters": [{"type": "x" * 1000}]}
    assert len(invalid(*[{"backendRefs": [backend]}] * 200)) <= 1024


@pytest.mark.parametrize(
    ("annotations", "holds", "reason"),
    [
        ({}, True, "DEFAULT"),
        ({STRATEGY_ANNOTATION: "LEAST_REQUEST"}, True, "LEAST_REQUEST"),
        ({STRATEGY_ANNOTATION: "NONSENSE"}, False, "PREFIX_CACHE"),
        ({STRATEGY_ANNOTATION: "x" * 200_000}, False, "PREFIX_CACHE"),
    ],
)
def test_strategy_condition_has_the_strategy_in_force_as_its_reason(
    annotations: dict[str, str], holds: bool, reason: str
) -> None:
    """The printer column shows the reason. An invalid annotation keeps the last valid strategy in force."""
    condition = strategy(annotations, RoutingStrategy.PREFIX_CACHE)
    assert (condition.holds, condition.reason) == (holds, reason)
    assert len(condition.message) < 1024


def test_requested_export_is_reported_as_not_supported() -> None:
    """The condition ends with the annotation."""
    annotated = {EXPORT_ANNOTATION: "ClusterSet"}
    found = pool_conditions(POOL, PICKER, True, service("ClusterIP", 9002), annotated, RoutingStrategy.DEFAULT, ())
    assert ("Exported", False, "NotSupported") in [(made.type, made.holds, made.reason) for made in found]
    assert exported(POOL, {}) is None


def test_v1alpha2_pool_has_no_export_condition() -> None:
    assert exported(PoolName(POOL_GROUP_V1ALPHA2, "default", "red"), {EXPORT_ANNOTATION: "ClusterSet"}) is None


@pytest.mark.parametrize(
    ("annotations", "holds", "reason", "text"),
    [
        ({"flow-control": "true", "scrape-interval": "1s"}, True, "Valid", "flow-control=true, scrape-interval=1s"),
        ({"flow-control": "yes"}, False, "UnsupportedValue", "flow-control: found 'yes'; allowed are 'true'"),
        ({"model-server-runtime": "sglang"}, False, "UnsupportedValue", "found 'sglang'; allowed: 'vllm'"),
        ({"flow-contrl": "true"}, False, "UnknownSetting", "did you mean inference.networking.x-k8s.io/flow-control?"),
        ({"kv-events": "x" * 200_000}, False, "UnsupportedValue", "kv-events"),
        ({"x" * 63 + str(number): "" for number in range(1000)}, False, "UnknownSetting", "is unknown"),
    ],
)
def test_settings_condition_lists_problems(annotations: dict[str, str], holds: bool, reason: str, text: str) -> None:
    condition = settings({PREFIX + name: value for name, value in annotations.items()})
    assert condition is not None
    assert (condition.holds, condition.reason) == (holds, reason)
    assert text in condition.message
    assert len(condition.message) <= 1024


def test_a_pool_without_settings_has_no_condition_for_them() -> None:
    """The strategy has a condition of its own. Annotations of others are not read."""
    others = {STRATEGY_ANNOTATION: "NONSENSE", EXPORT_ANNOTATION: "ClusterSet", "example.com/flow-control": "yes"}
    assert settings(others) is None
