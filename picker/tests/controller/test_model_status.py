"""Conditions of InferenceModels, InferenceObjectives and InferenceModelRewrites."""

from typing import Any

import pytest
from picker.controller.model_status import (
    model_claims,
    model_conditions,
    objective_conditions,
    rewrite_claims,
    rewrite_conditions,
)
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, PoolName

POOLS = {PoolName(POOL_GROUP_V1ALPHA2, "default", "red"), PoolName(POOL_GROUP_V1, "default", "green")}


def model(name: str, created: str = "2026-01-01T00:00:00Z", pool: str = "red") -> dict[str, Any]:
    return {
        "kind": "InferenceModel",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"modelName": "chat", "poolRef": {"name": pool}},
    }


def conditions(subject: dict[str, Any], *others: dict[str, Any]) -> list[tuple[bool, str]]:
    return [
        (condition.holds, condition.reason)
        for condition in model_conditions(subject, model_claims([subject, *others]), POOLS)
    ]


def test_model_of_an_existing_pool_is_accepted() -> None:
    """Its reference is resolved."""
    assert conditions(model("a")) == [(True, "Accepted"), (True, "ResolvedRefs")]


def test_older_object_owns_the_model_name() -> None:
    """Of two of the same second the first by name owns it. Another pool has its own names."""
    later = model("a", "2026-01-02T00:00:00Z")
    assert conditions(later, model("b"))[0] == (False, "ModelNameInUse")
    assert conditions(model("b"), later)[0] == (True, "Accepted")
    assert conditions(model("b"), model("a"))[0] == (False, "ModelNameInUse")
    assert conditions(later, model("b", pool="blue"))[0] == (True, "Accepted")


def test_model_of_a_missing_pool_is_not_resolved() -> None:
    """The pool may be created later."""
    assert conditions(model("a", pool="blue"))[1] == (False, "InvalidPoolRef")


def objective(reference: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": "InferenceObjective",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"poolRef": reference},
    }


@pytest.mark.parametrize(
    ("reference", "resolved"),
    [({"name": "green"}, True), ({"name": "red"}, False), ({"group": POOL_GROUP_V1ALPHA2, "name": "red"}, True)],
)
def test_objective_refers_to_a_v1_pool_by_default(reference: dict[str, str], resolved: bool) -> None:
    """An objective is always accepted; only its reference can be invalid."""
    accepted, refs = objective_conditions(objective(reference), {}, POOLS)
    assert (accepted.holds, refs.holds) == (True, resolved)


def rewrite(name: str, *models: str | None, created: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    """Returns a rewrite with a rule for each of `models`; None is a rule for all others."""
    rules = [{"matches": [{"model": {"value": name}}]} if name else {"targets": []} for name in models]
    return {
        "kind": "InferenceModelRewrite",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"poolRef": {"name": "green"}, "rules": rules},
    }


@pytest.mark.parametrize(
    ("own", "older", "reason", "message"),
    [
        (["chat"], [], "Accepted", None),
        (["chat"], ["chat"], "ModelNameInUse", "Model 'chat' by InferenceModelRewrite old"),
        (["chat", "code"], ["chat"], "Accepted", "Model 'chat' by InferenceModelRewrite old"),
        ([None], [None, "chat"], "ModelNameInUse", "Models that no rule lists by InferenceModelRewrite old"),
        (["chat"], [None], "Accepted", None),
    ],
)
def test_rewrite_reports_names_that_older_objects_own(
    own: list[str | None], older: list[str | None], reason: str, message: str | None
) -> None:
    """It is accepted if it owns at least one name; the older one always is."""
    new = rewrite("new", *own, created="2026-02-02T00:00:00Z")
    old = [rewrite("old", *older)] if older else []
    claims = rewrite_claims([new, *old])
    accepted, refs = rewrite_conditions(new, claims, POOLS)
    assert (accepted.reason, refs.holds) == (reason, True)
    assert message is None or message in accepted.message
    assert all(rewrite_conditions(older_rewrite, claims, POOLS)[0].holds for older_rewrite in old)
