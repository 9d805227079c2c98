"""Statuses of pools, models, objectives and rewrites, and validation by the API server."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from clusters import CommandFailed
from extra_objects import V1, V1ALPHA2, Added, model, pool, route, to_pool
from releases import PICKED, Release
from waits import until


def conditions(release: Release, name: str, group: str) -> Mapping[str, tuple[str, str]]:
    """Status and reason by type, of the pool's only parent. Empty if it has none."""
    status = release.cluster.get(f"inferencepools.{group}", name).get("status", {})
    entries = status.get("parents" if group == V1 else "parent") or []
    return {
        condition["type"]: (condition["status"], condition["reason"])
        for entry in entries
        for condition in entry["conditions"]
    }


BY_DEFAULT = {"RoutingStrategy": ("True", "DEFAULT")}
"""Condition of a pool without a strategy annotation."""


@pytest.mark.parametrize("group", [V1, V1ALPHA2])
def test_a_pool_is_accepted_while_a_route_refers_to_it(release: Release, group: str) -> None:
    """The status entry appears with the route and is removed with it."""
    with Added(release.cluster, pool("lonely", group)):
        with Added(release.cluster, route("lonely", to_pool("lonely", group))):
            expected = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs"), **BY_DEFAULT}
            until(lambda: conditions(release, "lonely", group) == expected, "the pool is accepted")
        until(lambda: not conditions(release, "lonely", group), "the pool has no parent")


@pytest.mark.parametrize("group", [V1, V1ALPHA2])
def test_a_pools_status_reports_a_missing_picker(release: Release, group: str) -> None:
    """ResolvedRefs is false. The pool is still accepted."""
    with Added(
        release.cluster, pool("unpicked", group, "no-such-picker"), route("unpicked", to_pool("unpicked", group))
    ):
        expected = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "InvalidExtensionRef"), **BY_DEFAULT}
        until(lambda: conditions(release, "unpicked", group) == expected, "the missing Service is reported")


def test_a_pool_without_a_picker_is_not_accepted(release: Release) -> None:
    """v1 permits a pool without a picker; this gateway requires one."""
    bare = json.loads(json.dumps(pool("bare", V1)))
    del bare["spec"]["endpointPickerRef"]
    with Added(release.cluster, bare, route("bare", to_pool("bare", V1))):
        until(
            lambda: conditions(release, "bare", V1).get("Accepted") == ("False", "EndpointPickerRefMissing"),
            "the missing reference is reported",
        )


def test_an_invalid_annotation_is_reported_and_ignored(release: Release) -> None:
    """An event and a condition report it: the API server cannot validate annotations. The column shows the strategy in
    force."""
    kind, name = "inferencepools.inference.networking.x-k8s.io", "vllm-qwen-pool"
    annotation = "inference.networking.x-k8s.io/routing-strategy"
    release.cluster.kubectl("annotate", kind, name, "--overwrite", f"{annotation}=PREFIX_CACHE")
    until(
        lambda: conditions(release, name, V1ALPHA2).get("RoutingStrategy") == ("True", "PREFIX_CACHE"),
        "a condition has the strategy",
    )
    release.cluster.kubectl("annotate", kind, name, "--overwrite", f"{annotation}=FASTEST")
    try:
        until(
            lambda: "FASTEST" in release.cluster.kubectl("describe", kind, name).partition("Events:")[2],
            "an event reports the annotation",
        )
        until(
            lambda: conditions(release, name, V1ALPHA2).get("RoutingStrategy") == ("False", "PREFIX_CACHE"),
            "a condition reports the invalid annotation",
        )
        assert "PREFIX_CACHE" in release.cluster.kubectl("get", kind, name)
        assert release.chat_status(PICKED) == 200
    finally:
        release.cluster.kubectl("annotate", kind, name, f"{annotation}-")


def test_settings_of_a_pool_are_reported(release: Release) -> None:
    kind, name = "inferencepools.inference.networking.x-k8s.io", "vllm-qwen-pool"
    prefix = "inference.networking.x-k8s.io"
    for values, condition in (
        ((f"{prefix}/flow-control=true",), ("True", "Valid")),
        ((f"{prefix}/flow-control=yes",), ("False", "UnsupportedValue")),
        ((f"{prefix}/flow-control-", f"{prefix}/flow-controls=true"), ("False", "UnknownSetting")),
    ):
        release.cluster.kubectl("annotate", kind, name, "--overwrite", *values)
        until(
            lambda condition=condition: conditions(release, name, V1ALPHA2).get("Settings") == condition,
            f"the condition is {condition}",
        )
    release.cluster.kubectl("annotate", kind, name, f"{prefix}/flow-controls-")
    until(lambda: "Settings" not in conditions(release, name, V1ALPHA2), "the condition is gone")
    assert release.chat_status(PICKED) == 200


def test_one_replica_writes_statuses(release: Release) -> None:
    """The holder of the Lease is one of the extension's pods."""
    lease = release.cluster.get("lease", "inference-gateway-status", "-n", "envoy-gateway-system")
    pods = release.cluster.pods("app.kubernetes.io/name=extension", "envoy-gateway-system")
    assert lease["spec"]["holderIdentity"] in pods


def pool_with(group: str, **changes: Any) -> dict[str, Any]:
    """A valid pool with `changes` of its spec. None removes a field."""
    made = json.loads(json.dumps(pool("probe", group)))
    made["spec"] = {key: value for key, value in {**made["spec"], **changes}.items() if value is not None}
    return made


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        (V1, {"targetPorts": []}, "should have at least 1 items"),
        (V1, {"targetPorts": [{"number": n} for n in range(1, 10)]}, "must have at most 8 items"),
        (V1, {"targetPorts": [{"number": 1}, {"number": 1}]}, "port number must be unique"),
        (V1, {"targetPorts": [{"number": 0}]}, "greater than or equal to 1"),
        (V1, {"endpointPickerRef": {"name": "picker"}}, "port is required when kind is 'Service'"),
        (V1, {"appProtocol": "h3"}, "Unsupported value"),
        (V1, {"selector": None}, "Required value"),
        (V1ALPHA2, {"targetPortNumber": 65536}, "less than or equal to 65535"),
        (V1ALPHA2, {"extensionRef": None}, "Required value"),
        (V1ALPHA2, {"extensionRef": {"name": "picker", "failureMode": "FailSometimes"}}, "Unsupported value"),
        (V1ALPHA2, {"selector": {"app": "not a label"}}, "should match"),
    ],
)
def test_the_api_server_rejects(release: Release, group: str, changes: dict[str, Any], message: str) -> None:
    """The API server rejects what upstream's CRDs reject, with an error message."""
    with pytest.raises(CommandFailed, match=message):
        release.cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pool_with(group, **changes)))


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        (V1, {}),
        (V1, {"targetPorts": [{"number": n} for n in range(1, 9)]}),
        (V1, {"endpointPickerRef": None}),
        (V1, {"endpointPickerRef": {"group": "example.com", "kind": "Picker", "name": "picker"}}),
        (V1, {"appProtocol": "kubernetes.io/h2c"}),
        (V1ALPHA2, {}),
        (V1ALPHA2, {"extensionRef": {"name": "picker", "portNumber": 1, "failureMode": "FailOpen"}}),
        (V1ALPHA2, {"extensionRef": {"group": "example.com", "kind": "Picker", "name": "picker"}}),
    ],
)
def test_the_api_server_accepts(release: Release, group: str, changes: dict[str, Any]) -> None:
    """The API server accepts what upstream's CRDs accept."""
    # must not raise
    release.cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pool_with(group, **changes)))


def test_of_two_models_with_one_name_the_older_is_accepted(release: Release) -> None:
    """The younger one's condition Accepted is false."""
    twin = model("twin", "vllm-qwen-pool", "/model/qwen", "Standard", {"/model/qwen": 1})
    with Added(release.cluster, twin):
        until(lambda: _accepted(release, "twin") == "False", "the younger one is not accepted")
        until(lambda: _accepted(release, "inferencemodel-qwen") == "True", "the older one is accepted")


@pytest.mark.parametrize("group", [V1ALPHA2, "llm-d.ai"])
def test_objectives_and_rewrites_have_conditions(release: Release, group: str) -> None:
    """In both API groups. ResolvedRefs reports whether their pool exists."""
    metadata = {"name": "conditions", "namespace": "default"}
    reference = {"group": V1ALPHA2, "kind": "InferencePool", "name": "vllm-qwen-pool"}
    rules = [
        {"matches": [{"model": {"type": "Exact", "value": "short"}}], "targets": [{"modelRewrite": "/model/qwen"}]}
    ]
    objective = {"kind": "InferenceObjective", "spec": {"priority": 1, "poolRef": {**reference, "name": "nowhere"}}}
    rewrite = {"kind": "InferenceModelRewrite", "spec": {"poolRef": reference, "rules": rules}}
    objects = [{"apiVersion": f"{group}/v1alpha2", "metadata": metadata, **body} for body in (objective, rewrite)]
    with Added(release.cluster, *objects):
        for kind, resolved in (("inferenceobjectives", "False"), ("inferencemodelrewrites", "True")):
            expected = {"Accepted": "True", "ResolvedRefs": resolved}
            until(
                lambda kind=kind, expected=expected: _conditions(release, f"{kind}.{group}") == expected,
                f"{kind} have the conditions {expected}",
            )


def _conditions(release: Release, kind: str) -> Mapping[str, str]:
    status = release.cluster.get(kind, "conditions").get("status", {})
    return {condition["type"]: condition["status"] for condition in status.get("conditions", [])}


def _accepted(release: Release, name: str) -> str | None:
    status = release.cluster.get("inferencemodel", name).get("status", {})
    return next(
        (condition["status"] for condition in status.get("conditions", []) if condition["type"] == "Accepted"), None
    )
