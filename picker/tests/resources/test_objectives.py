"""InferenceObjective and InferenceModelRewrite: their content, and which of several rules is used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import OBJECTIVE, REWRITE
from picker.resources.inference import (
    Criticality,
    InferenceModelRewrite,
    InferenceObjective,
    RewriteRule,
    TargetModel,
)
from picker.resources.names import ObjectName, PoolName
from picker.resources.objects import AnyObject, Resources
from picker.resources.parse import Parsed, parse
from picker.resources.problems import Problem

POOL = PoolName("inference.networking.k8s.io", "default", "vllm-qwen-pool")
LEGACY_GROUP = "inference.networking.x-k8s.io/v1alpha2"


def the_objects(text: str) -> list[AnyObject]:
    parsed = parse(text, "f.yaml")
    assert all(isinstance(item, Parsed) for item in parsed), parsed
    return [item.object for item in parsed if isinstance(item, Parsed)]


def rewritten(*texts: str) -> Resources:
    return Resources.of(item for text in texts for item in the_objects(text))


def generic(text: str, model: str) -> str:
    """A rule for all models."""
    lines = text.split("  rules:")[0]
    return f"{lines}  rules:\n  - targets: [{{modelRewrite: {model}}}]\n"


@pytest.mark.parametrize("version", ["llm-d.ai/v1alpha2", LEGACY_GROUP])
def test_an_objective_is_read_from_either_group(version: str) -> None:
    """Its pool is a v1 pool unless the group is another one."""
    [objective] = the_objects(OBJECTIVE.replace("llm-d.ai/v1alpha2", version))
    assert objective == InferenceObjective(ObjectName("default", "batch"), POOL, -10)


def test_an_objective_without_priority_has_0() -> None:
    """Like requests without an objective."""
    [objective] = the_objects(OBJECTIVE.replace("  priority: -10\n", ""))
    assert isinstance(objective, InferenceObjective)
    assert objective.priority == 0


@pytest.mark.parametrize(
    ("priority", "criticality"),
    [(-1, Criticality.SHEDDABLE), (0, Criticality.STANDARD), (1, Criticality.CRITICAL)],
)
def test_a_priority_below_0_is_sheddable(priority: int, criticality: Criticality) -> None:
    """Above 0 it is critical."""
    assert Criticality.of_priority(priority) is criticality


@pytest.mark.parametrize("version", ["llm-d.ai/v1alpha2", LEGACY_GROUP])
def test_a_rewrite_is_read_from_either_group(version: str) -> None:
    """Models, targets, weights."""
    [rewrite] = the_objects(REWRITE.replace("llm-d.ai/v1alpha2", version))
    assert isinstance(rewrite, InferenceModelRewrite)
    assert rewrite.pool == POOL
    assert rewrite.rules == (RewriteRule(("qwen",), (TargetModel("qwen-v1", 90), TargetModel("qwen-v2", 10))),)


def test_a_target_without_weight_has_weight_1() -> None:
    """The API's default."""
    [rewrite] = the_objects(REWRITE.replace("      weight: 90\n", "").replace("      weight: 10\n", ""))
    assert isinstance(rewrite, InferenceModelRewrite)
    assert [target.weight for target in rewrite.rules[0].targets] == [1, 1]


@pytest.mark.parametrize(
    ("good", "old", "new", "said"),
    [
        (OBJECTIVE, "priority: -10", "priority: high", "spec.priority: found 'high'"),
        (OBJECTIVE, "priority: -10", "priority: 1.5", "spec.priority: found 1.5"),
        (OBJECTIVE, "priority: -10", "priority: 2147483648", "at most 2147483647"),
        (OBJECTIVE, "priority: -10", "criticality: Critical", "unknown field (allowed are priority, poolRef)"),
        (OBJECTIVE, "  poolRef:\n    name: vllm-qwen-pool\n", "", "spec.poolRef: missing"),
        (OBJECTIVE, "llm-d.ai/v1alpha2", "llm-d.ai/v1", f"allowed: llm-d.ai/v1alpha2, {LEGACY_GROUP}"),
        (REWRITE, "type: Exact", "type: Regex", "spec.rules[0].matches[0].model.type: found 'Regex'; allowed: 'Exact'"),
        (REWRITE, "value: qwen", "vale: qwen", "did you mean value?"),
        (REWRITE, "weight: 90", "weight: 0", "spec.rules[0].targets[0].weight: found 0; allowed: at least 1"),
        (REWRITE, "modelRewrite: qwen-v1", "model: qwen-v1", "did you mean modelRewrite?"),
    ],
)
def test_an_error_names_field_value_and_allowed_values(good: str, old: str, new: str, said: str) -> None:
    """Field, found, allowed."""
    assert old in good
    found = [str(item) for item in parse(good.replace(old, new), "f.yaml") if isinstance(item, Problem)]
    assert said in "\n".join(found)


def test_a_rule_that_lists_a_model_precedes_one_for_all() -> None:
    """Also one of an older object."""
    older = generic(REWRITE, "base").replace("name: canary", "name: old\n  creationTimestamp: 2020-01-01T00:00:00Z")
    rewrites = rewritten(REWRITE, older).rewrites_of(POOL)
    assert [target.name for target in rewrites.targets("qwen")] == ["qwen-v1", "qwen-v2"]
    assert [target.name for target in rewrites.targets("anything")] == ["base"]


def test_of_two_rules_for_a_model_the_older_objects_is_used() -> None:
    """By creation time, then by name."""
    other = REWRITE.replace("qwen-v1", "other").replace("name: canary", "name: a")
    at = "name: {}\n  creationTimestamp: {}"
    first = REWRITE.replace("name: canary", at.format("b", "2025-01-01T00:00:00Z"))
    second = other.replace("name: a", at.format("a", "2025-01-01T00:00:01Z"))
    assert rewritten(first, second).rewrites_of(POOL).targets("qwen")[0].name == "qwen-v1"
    assert rewritten(REWRITE, other).rewrites_of(POOL).targets("qwen")[0].name == "other"


def test_a_model_without_a_rule_keeps_its_name() -> None:
    """No targets."""
    rewrites = rewritten(REWRITE).rewrites_of(POOL)
    assert rewrites.targets("llama") == ()
    assert rewritten().rewrites_of(POOL).targets("qwen") == ()


def test_objectives_are_found_by_the_name_that_requests_give() -> None:
    """Only in the pool that they refer to."""
    resources = rewritten(OBJECTIVE)
    assert resources.objectives_of(POOL)["batch"].priority == -10
    assert resources.objectives_of(PoolName("inference.networking.x-k8s.io", "default", "vllm-qwen-pool")) == {}


names = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(st.tuples(st.lists(names, max_size=2), names), max_size=5),
    names,
)
def test_the_first_rule_of_an_object_that_matches_is_used(rules: list[tuple[list[str], str]], requested: str) -> None:
    """Rules for listed models precede rules for all. The expected result is from a plain search."""
    written = tuple(RewriteRule(tuple(models), (TargetModel(to, 1),)) for models, to in rules)
    rewrite = InferenceModelRewrite(ObjectName("default", "r"), POOL, written, None)
    listed = [to for models, to in rules if requested in models]
    general = [to for models, to in rules if not models]
    found = Resources.of([rewrite]).rewrites_of(POOL).targets(requested)
    assert [target.name for target in found] == (listed + general)[:1]
