"""Manifests become typed objects with the API's defaults, or all their problems are reported."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import MODEL, POOL, POOL_V1, ROUTE, TUTORIAL
from picker.resources.gateway_api import HTTPRoute
from picker.resources.inference import (
    AppProtocol,
    Criticality,
    FailureMode,
    InferenceModel,
    InferencePool,
    RoutingStrategy,
    TargetModel,
)
from picker.resources.names import PoolName
from picker.resources.objects import Resources
from picker.resources.parse import Parsed, Skipped, parse
from picker.resources.problems import Problem
from picker.resources.validate import validate_files
from picker.resources.wire import duration_s


def problems(text: str) -> list[str]:
    return [str(item) for item in parse(text, "f.yaml") if isinstance(item, Problem)]


def the_object(text: str) -> object:
    [parsed] = parse(text, "f.yaml")
    assert isinstance(parsed, Parsed), parsed
    return parsed.object


def test_the_tutorials_files_are_valid() -> None:
    """Every object of the gateway is read, and the Deployment is skipped."""
    report = validate_files([TUTORIAL])
    assert report.problems == ()
    kinds = [type(item.object).__name__ for item in report.results if isinstance(item, Parsed)]
    assert sorted(kinds) == [
        "BackendTrafficPolicy", "Gateway", "GatewayClass", "HTTPRoute", "HTTPRoute",
        "InferenceModel", "InferencePool", "InferencePool",
    ]  # fmt: skip
    assert [item.title for item in report.results if isinstance(item, Skipped)] == ["Deployment default/vllm-benchmark"]


def test_both_versions_of_a_pool_become_the_same_pool() -> None:
    """Except for the API group, which is part of its identity."""
    old, new = the_object(POOL), the_object(POOL_V1)
    assert isinstance(old, InferencePool)
    assert isinstance(new, InferencePool)
    assert replace(old, name=new.name) == new
    assert old.name == PoolName("inference.networking.x-k8s.io", "default", "vllm-qwen-pool")


def test_a_pool_has_the_apis_defaults() -> None:
    """Picker port 9002, FailClose, http, strategy DEFAULT."""
    pool = the_object(POOL)
    assert isinstance(pool, InferencePool)
    assert pool.picker is not None
    assert (pool.picker.port, pool.picker.failure_mode) == (9002, FailureMode.FAIL_CLOSE)
    assert (pool.app_protocol, pool.strategy) == (AppProtocol.HTTP, RoutingStrategy.DEFAULT)


def test_a_model_has_the_apis_defaults() -> None:
    """Standard, and served under its own name."""
    text = MODEL.replace("  criticality: Critical\n", "").split("  targetModels")[0]
    model = the_object(text)
    assert isinstance(model, InferenceModel)
    assert model.criticality is Criticality.STANDARD
    assert model.targets == (TargetModel("/model/qwen", 1),)


def test_a_route_has_the_apis_defaults() -> None:
    """It matches every path, its backends are Services of weight 1, and durations are seconds."""
    route = the_object(ROUTE)
    assert isinstance(route, HTTPRoute)
    [rule] = route.spec.rules
    assert rule.matches[0].path.value == "/"
    assert (rule.backend_refs[0].kind, rule.backend_refs[0].weight) == ("Service", 1)
    assert rule.timeouts.request == 10.0


def test_of_two_models_of_one_name_the_older_is_used() -> None:
    """As in the inference extension."""
    old = MODEL.replace("name: inferencemodel-qwen", "name: b\n  creationTimestamp: 2025-01-01T00:00:00Z")
    new = MODEL.replace("name: inferencemodel-qwen", "name: a\n  creationTimestamp: 2025-06-01T00:00:00Z")
    models = [the_object(old), the_object(new)]
    resources = Resources.of(model for model in models if isinstance(model, InferenceModel))
    pool = PoolName("inference.networking.x-k8s.io", "default", "vllm-qwen-pool")
    assert resources.models_of(pool)["/model/qwen"].name.name == "b"


ANNOTATED = "metadata:\n  annotations:\n    inference.networking.x-k8s.io/routing-strategy: "

MATCH = "  - matches: [{{{}}}]\n    backendRefs:"

BROKEN = [
    (POOL, "targetPortNumber: 8000", "targetPort: 8000", ["unknown field; did you mean targetPortNumber?", "f.yaml:6"]),
    (POOL, "targetPortNumber: 8000", "targetPortNumber: 0", ["spec.targetPortNumber: found 0; allowed: at least 1"]),
    (POOL, "targetPortNumber: 8000", "targetPortNumber: 65536", ["found 65536; allowed: at most 65535"]),
    (
        POOL,
        "targetPortNumber: 8000",
        'targetPortNumber: "8000"',
        ["found '8000'; allowed is a whole number, without quotes"],
    ),
    (POOL, "  targetPortNumber: 8000\n", "", ["spec.targetPortNumber: missing"]),
    (POOL, "    app: qwen\n", "    {}\n", ["spec.selector: found 0 entries; allowed: at least 1"]),
    (POOL, "app: qwen", "app: -qwen", ["spec.selector.app: found '-qwen'"]),
    (POOL, "name: vllm-qwen-pool", "name: Vllm_Pool", ["metadata.name: found 'Vllm_Pool'", "lower-case"]),
    (POOL, "  name: vllm-qwen-pool", "  labels: {}", ["metadata.name: missing"]),
    (POOL, "    name: inference-gateway-ext-proc", "    failureMode: FailOpen", ["spec.extensionRef.name: missing"]),
    (POOL, "    name: inference", "    failureMode: Open\n    name: inference", ["'FailOpen' or 'FailClose'"]),
    (POOL, "    name: inference", "    kind: Pod\n    name: inference", ["spec.extensionRef.kind: found 'Pod'"]),
    (
        POOL,
        "metadata:\n",
        ANNOTATED + "LEAST\n",
        ["routing-strategy]: found 'LEAST'", "'DEFAULT', 'PREFIX_CACHE'", "f.yaml:5"],
    ),
    (POOL, "v1alpha2", "v1alpha1", ["apiVersion: found", "v1alpha2", "inference.networking.k8s.io/v1"]),
    (POOL, "  selector:", "\tselector:", ["not YAML", "f.yaml:7"]),
    (POOL, "spec:", "spec: [", ["not YAML"]),
    (POOL, "  selector:", "  targetPortNumber: 1\n  selector:", ["'targetPortNumber' is written twice"]),
    (POOL, POOL, "- a\n- b\n", ["found list; allowed is an object"]),
    (POOL, "kind: InferencePool\n", "", ["kind: missing"]),
    (POOL, "kind: InferencePool\n", "kind: 3\n", ["kind: missing or not text"]),
    (POOL_V1, "- number: 8000", "- number: 8000\n  - number: 8000", ["spec.targetPorts", "must be unique"]),
    (POOL_V1, "- number: 8000", "".join(f"- number: {n}\n  " for n in range(1, 10)), ["9 entries; allowed: at most 8"]),
    (POOL_V1, "matchLabels", "matchLabel", ["did you mean matchLabels?"]),
    (POOL_V1, "  selector:", "  appProtocol: h2c\n  selector:", ["'http' or 'kubernetes.io/h2c'"]),
    (
        MODEL,
        "Critical\n",
        "critical\n",
        ["spec.criticality: found 'critical'", "'Critical', 'Standard' or 'Sheddable'"],
    ),
    (MODEL, "weight: 100", "weight: 0", ["spec.targetModels[0].weight: found 0; allowed: at least 1", "f.yaml:12"]),
    (MODEL, "weight: 100", "weight: 1000001", ["at most 1000000"]),
    (MODEL, "weight: 100", "weight: 100\n  - name: b", ["weight must be set on all or on none"]),
    (
        MODEL,
        "/model/qwen\n  crit",
        f"{'m' * 257}\n  crit",
        ["spec.modelName: found 257 characters; allowed: at most 256"],
    ),
    (MODEL, "  - name: /model/qwen\n    weight: 100", "  - name: m\n" * 11, ["11 entries; allowed: at most 10"]),
    (MODEL, "    name: vllm-qwen-pool", "    kind: InferencePool", ["spec.poolRef.name: missing"]),
    (
        ROUTE,
        "  - backendRefs:",
        MATCH.format("path: {value: v1}"),
        ["matches[0].path: value: found 'v1'", "begin with '/'"],
    ),
    (
        ROUTE,
        "  - backendRefs:",
        MATCH.format("path: {type: RegularExpression, value: '('}"),
        ["'('; allowed is a regular"],
    ),
    (
        ROUTE,
        "  - backendRefs:",
        MATCH.format("path: {type: RegularExpression, value: '(?=a)'}"),
        ["invalid perl operator"],
    ),
    (ROUTE, "  - backendRefs:", MATCH.format("headers: [{name: 'a b', value: c}]"), ["headers[0].name: found 'a b'"]),
    (
        ROUTE,
        "  - backendRefs:",
        MATCH.format("method: get"),
        ["matches[0].method: found 'get'; allowed: 'GET', 'HEAD'"],
    ),
    (
        ROUTE,
        "  rules:",
        "  hostnames: ['a.example:80']\n  rules:",
        ["spec.hostnames[0]: found 'a.example:80'", "without a port"],
    ),
    (ROUTE, "request: 10s", "request: 10 seconds", ["spec.rules[0].timeouts.request", "durations such as 1h"]),
    (ROUTE, "name: qwen\n", "name: qwen\n      kind: Bucket\n", ["'Service' or 'InferencePool'"]),
    (ROUTE, "  - backendRefs:", "  - filters: [{type: URLRewrite}]\n    backendRefs:", ["filters[0].type"]),
]


@pytest.mark.parametrize(("good", "old", "new", "said"), BROKEN)
def test_an_error_names_place_value_and_allowed_values(good: str, old: str, new: str, said: list[str]) -> None:
    """The message contains the file, the line, the object and the field."""
    assert old in good
    found = problems(good.replace(old, new, 1))
    assert found, "nothing was found wrong"
    text = "\n".join(found)
    assert text.startswith("f.yaml:")
    for part in said:
        assert part in text


def test_all_problems_are_reported_at_once() -> None:
    """In one run."""
    text = POOL.replace("8000", "0").replace("app: qwen", "app: -q") + "---\n" + MODEL.replace("100", "0")
    assert len(problems(text)) == 3


def test_empty_documents_are_nothing() -> None:
    """A file of comments and separators is valid."""
    assert parse("---\n# nothing\n---\n---\n", "f.yaml") == []


def test_fields_that_an_api_server_adds_are_ignored() -> None:
    """The output of `kubectl get -o yaml` can be used."""
    added = "metadata:\n  uid: x\n  resourceVersion: '1'\n  managedFields: [{manager: kubectl}]\n"
    text = POOL.replace("metadata:\n", added) + "status: {parent: []}\n"
    assert isinstance(the_object(text), InferencePool)


@given(st.text(max_size=400))
def test_any_text_is_read_or_a_problem(text: str) -> None:
    """Nothing is raised."""
    assert all(isinstance(item, Parsed | Skipped | Problem) for item in parse(text, "f.yaml"))


@given(st.data())
def test_a_manifest_with_any_value_anywhere_is_read_or_a_problem(data: st.DataObject) -> None:
    """Nothing is raised, whatever the value of a field."""
    lines = data.draw(st.sampled_from([POOL, POOL_V1, MODEL, ROUTE])).splitlines()
    index = data.draw(st.integers(0, len(lines) - 1))
    value = data.draw(st.sampled_from(["3", "'x'", "[1]", "{a: b}", "null", "true", "1e999", "2020-01-01", "&a [*a]"]))
    lines[index] = f"{lines[index].split(':')[0]}: {value}"
    assert all(isinstance(item, Parsed | Problem | Skipped) for item in parse("\n".join(lines), "f.yaml"))


@given(st.integers(0, 99_999), st.integers(0, 59), st.integers(0, 59))
def test_durations_are_sums_of_their_parts(hours: int, minutes: int, seconds: int) -> None:
    """GEP-2257."""
    assert duration_s(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_the_items_of_a_list_are_read() -> None:
    """`kubectl get -o yaml` writes a List for several objects. A problem has its own line."""
    items = "".join(f"- {text.replace(chr(10), chr(10) + '  ').rstrip()}\n" for text in (POOL, MODEL))
    text = f"apiVersion: v1\nkind: List\nitems:\n{items}metadata:\n  resourceVersion: ''\n"
    pool, model = parse(text, "f.yaml")
    assert isinstance(pool, Parsed)
    assert isinstance(model, Parsed)
    assert (pool.line, pool.object) == (4, the_object(POOL))
    assert (model.line, model.object) == (14, the_object(MODEL))
    assert problems(text.replace("weight: 100", "weight: 0")) == [
        "f.yaml:25: InferenceModel default/inferencemodel-qwen: spec.targetModels[0].weight: "
        "found 0; allowed: at least 1"
    ]


def test_a_list_that_contains_itself_is_rejected() -> None:
    """YAML's aliases make it possible."""
    [problem] = problems("kind: List\napiVersion: v1\nitems:\n- &a {kind: List, apiVersion: v1, items: [*a]}\n")
    assert "refers to a node that contains it" in problem


def test_a_list_in_a_list_is_rejected() -> None:
    [problem] = problems("kind: List\napiVersion: v1\nitems:\n- {kind: List, apiVersion: v1, items: []}\n")
    assert "nested List" in problem


@pytest.mark.parametrize("items", ["", "items: []\n", "items: {}\n", "items: [3]\n", "items: [null]\n"])
def test_a_list_with_any_content_is_read_or_a_problem(items: str) -> None:
    """Nothing is raised."""
    found = parse(f"apiVersion: v1\nkind: List\n{items}", "f.yaml")
    assert all(isinstance(item, Problem) for item in found)
    assert bool(found) == (items != "items: []\n")


def test_a_field_that_is_null_is_absent() -> None:
    """As for the API server: `labels:` without a value is common."""
    text = POOL.replace("metadata:\n", "metadata:\n  labels:\n  annotations: null\n  creationTimestamp: null\n")
    assert the_object(text) == the_object(POOL)
    [problem] = problems(POOL.replace("targetPortNumber: 8000", "targetPortNumber:"))
    assert "spec.targetPortNumber: missing" in problem


def test_an_unknown_field_that_is_null_is_rejected() -> None:
    """It may be a misspelt optional field."""
    [problem] = problems(POOL.replace("    name: inference", "    failuremode:\n    name: inference"))
    assert "did you mean failureMode?" in problem


@pytest.mark.parametrize("written", ["2025-01-01T00:00:00Z", "2025-01-01", "2025-01-01T00:00:00"])
def test_a_time_without_a_zone_is_utc(written: str) -> None:
    """Any two times can be compared."""
    model = the_object(MODEL.replace("metadata:\n", f"metadata:\n  creationTimestamp: {written}\n"))
    assert isinstance(model, InferenceModel)
    assert model.created == datetime(2025, 1, 1, tzinfo=UTC)


def test_an_invalid_time_is_reported_with_an_example() -> None:
    """The message has an example of a valid time."""
    [problem] = problems(POOL.replace("metadata:\n", "metadata:\n  creationTimestamp: yesterday\n"))
    assert "metadata.creationTimestamp: found 'yesterday'; allowed are times such as 2025-01-31T12:00:00Z" in problem


SERVICE_FROM_A_CLUSTER = """\
apiVersion: v1
kind: Service
metadata: {name: dns}
spec:
  clusterIP: 10.0.0.10
  clusterIPs: [10.0.0.10]
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: dns, appProtocol: dns, nodePort: 30053}
  selector: {app: dns}
  sessionAffinity: None
  type: NodePort
status: {loadBalancer: {}}
"""


@pytest.mark.parametrize(
    "text",
    [
        SERVICE_FROM_A_CLUSTER,
        "apiVersion: v1\nkind: Service\nmetadata: {name: out}\nspec: {type: ExternalName, externalName: a.b}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: headless}\nspec: {clusterIP: None, selector: {app: a}}\n",
    ],
)
def test_any_service_of_a_cluster_is_read_without_a_warning(text: str) -> None:
    """Its other fields are not relevant to the gateway."""
    [parsed] = parse(text, "f.yaml")
    assert isinstance(parsed, Parsed)
    assert parsed.warnings == ()


def test_a_misspelt_field_of_a_service_is_rejected() -> None:
    """Otherwise it would select nothing without a message."""
    [problem] = problems(SERVICE_FROM_A_CLUSTER.replace("selector", "selctor"))
    assert "did you mean selector?" in problem


@pytest.mark.parametrize("hostname", ["example.com", "*.example.com", "a-b.c", "1.2.3.4"])
def test_a_host_name_may_have_a_wildcard_as_first_label(hostname: str) -> None:
    """No other patterns."""
    route = the_object(ROUTE.replace("  rules:", f"  hostnames: ['{hostname}']\n  rules:"))
    assert isinstance(route, HTTPRoute)
    assert route.spec.hostnames == (hostname,)


@pytest.mark.parametrize("expression", ["/v[0-9]+/.*", "(?i)a", "(?:a|b)", "(?P<n>a)"])
def test_expressions_of_re2_are_accepted(expression: str) -> None:
    """Groups, flags and classes."""
    text = ROUTE.replace("  - backendRefs:", MATCH.format(f"path: {{type: RegularExpression, value: '{expression}'}}"))
    assert isinstance(the_object(text), HTTPRoute)
