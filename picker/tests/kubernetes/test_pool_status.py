"""What a pool's status says."""

import pytest
from picker.kubernetes.objects import HTTPRoute, Service, read_pool_route, read_route, read_service
from picker.kubernetes.pool_status import PickerReference, accepted, parents, resolved
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ObjectName, PoolName

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
                "rules": [{"backendRefs": [backend], "filters": [{"type": "RequestMirror"}]}],
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
