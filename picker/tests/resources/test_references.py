"""References to missing or duplicate objects are reported."""

import pytest
from manifests import MODEL, OBJECTIVE, POOL, POOL_V1, REWRITE, ROUTE
from picker.resources.parse import Parsed, parse
from picker.resources.references import reference_warnings

GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: qwen-inference-gateway
spec:
  gatewayClassName: qwen
  listeners:
  - name: llm-gw
    protocol: HTTP
    port: 8080
"""

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: qwen
spec:
  selector:
    app: qwen
  ports:
  - port: 8000
"""

POOL_ROUTE = ROUTE.replace(
    "    - name: qwen\n      port: 8000\n",
    "    - group: inference.networking.x-k8s.io\n      kind: InferencePool\n      name: vllm-qwen-pool\n",
)

POLICY = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata:
  name: timeout
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: qwen-inference-gateway
  timeout:
    http:
      requestTimeout: 24h
"""


def warnings(*texts: str) -> list[str]:
    parsed = [item for index, text in enumerate(texts) for item in parse(text, f"{index}.yaml")]
    assert all(isinstance(item, Parsed) for item in parsed), parsed
    return [str(item) for item in reference_warnings([item for item in parsed if isinstance(item, Parsed)])]


def test_consistent_objects_have_no_warnings() -> None:
    """A pool, its model, a Service, a gateway, routes to both and a policy."""
    routes = (ROUTE, POOL_ROUTE.replace("name: qwen-backend", "name: other"))
    assert warnings(POOL, MODEL, SERVICE, GATEWAY, *routes, POLICY) == []
    assert warnings(POOL_V1, OBJECTIVE, REWRITE) == []


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ((MODEL,), "spec.poolRef: there is no InferencePool default/vllm-qwen-pool in the group"),
        ((MODEL, POOL_V1), "there is one in inference.networking.k8s.io: set group to it"),
        ((MODEL, POOL.replace("qwen-pool", "qwen-pol")), "did you mean vllm-qwen-pol?"),
        ((OBJECTIVE, POOL), "there is one in inference.networking.x-k8s.io: set group to it"),
        ((REWRITE, POOL), "there is one in inference.networking.x-k8s.io: set group to it"),
        ((ROUTE, SERVICE), "spec.parentRefs[0]: there is no Gateway default/qwen-inference-gateway"),
        ((ROUTE, GATEWAY), "spec.rules[0].backendRefs[0]: there is no Service default/qwen"),
        ((ROUTE.replace("8000", "80"), GATEWAY, SERVICE), "Service default/qwen has no port 80; it has 8000"),
        (
            (ROUTE.replace("port: 8000", "weight: 1"), GATEWAY, SERVICE),
            "port is missing; Service default/qwen has 8000",
        ),
        ((POOL_ROUTE, GATEWAY), "there is no InferencePool default/vllm-qwen-pool in the group inference.networking.x"),
        (
            (POOL_ROUTE.replace("group: inference.networking.x-k8s.io", "weight: 1"), GATEWAY, POOL),
            "in the group (none); there is one in inference.networking.x-k8s.io: set group to it",
        ),
        (
            (ROUTE.replace("gateway\n", "gateway\n    sectionName: llm\n"), GATEWAY, SERVICE),
            "Gateway default/qwen-inference-gateway has no listener 'llm'; it has llm-gw",
        ),
        ((POLICY,), "spec.targetRefs: there is no Gateway default/qwen-inference-gateway"),
        ((POLICY.replace("kind: Gateway", "kind: GRPCRoute"),), "has no effect on GRPCRoute"),
    ],
)
def test_a_reference_to_nothing_is_reported_with_the_likely_mistake(texts: tuple[str, ...], said: str) -> None:
    """One warning, at the referring field."""
    [warning] = warnings(*texts)
    assert said in warning


def test_a_duplicate_is_reported_with_the_other_place() -> None:
    """The later one is used."""
    [warning] = warnings(POOL, POOL)
    assert warning.startswith("1.yaml:1: InferencePool default/vllm-qwen-pool: duplicate of 0.yaml:1")


def test_pools_of_both_groups_may_share_a_name() -> None:
    """They are two objects."""
    assert warnings(POOL, POOL_V1) == []


def test_a_second_declaration_of_a_model_is_reported() -> None:
    """The older one is used."""
    second = MODEL.replace("name: inferencemodel-qwen", "name: z")
    [warning] = warnings(POOL, MODEL, second)
    assert "InferenceModel default/z" in warning
    assert "'/model/qwen' is already declared by default/inferencemodel-qwen, which is older and is used" in warning


def test_a_rewrite_rule_that_is_never_used_is_reported() -> None:
    """With the rule that is used instead."""
    [warning] = warnings(POOL_V1, REWRITE, REWRITE.replace("name: canary", "name: late"))
    message = "never used for 'qwen': spec.rules[0] of default/canary takes precedence"
    assert f"default/late: spec.rules[0]: {message}" in warning


def test_a_second_rule_for_all_models_is_reported() -> None:
    """It is never used."""
    rules = "  rules:\n  - targets: [{modelRewrite: a}]\n  - targets: [{modelRewrite: b}]\n"
    [warning] = warnings(POOL_V1, REWRITE.split("  rules:")[0] + rules)
    assert "spec.rules[1]: never used for all other models: spec.rules[0] of default/canary takes precedence" in warning


def test_fields_without_effect_are_reported() -> None:
    """A route from a cluster is valid, and its unsupported fields are named."""
    more = "timeouts:\n      request: 10s\n    retry:\n      attempts: 2\n    sessionPersistence: {type: Cookie}\n"
    found = warnings(ROUTE.replace("timeouts:\n      request: 10s\n", more), GATEWAY, SERVICE)
    assert [warning.split(": ", 2)[2] for warning in found] == [
        "spec.rules[0].retry: has no effect: the gateway on one machine does not serve it",
        "spec.rules[0].sessionPersistence: has no effect: the gateway on one machine does not serve it",
    ]
    assert found[0].startswith("0.yaml:14: ")
