"""What the statuses of the objects about models say."""

from typing import Any

import pytest
from picker.controller.model_status import (
    model_claims,
    model_findings,
    objective_findings,
    rewrite_claims,
    rewrite_findings,
)
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, PoolName

POOLS = {PoolName(POOL_GROUP_V1ALPHA2, "default", "red"), PoolName(POOL_GROUP_V1, "default", "green")}


def model(name: str, created: str = "2026-01-01T00:00:00Z", pool: str = "red") -> dict[str, Any]:
    return {
        "kind": "InferenceModel",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"modelName": "chat", "poolRef": {"name": pool}},
    }


def said(asked: dict[str, Any], *others: dict[str, Any]) -> list[tuple[bool, str]]:
    return [(each.holds, each.reason) for each in model_findings(asked, model_claims([asked, *others]), POOLS)]


def test_a_model_of_a_pool_that_is_there_is_accepted() -> None:
    """And its reference resolved."""
    assert said(model("a")) == [(True, "Accepted"), (True, "ResolvedRefs")]


def test_of_two_for_one_name_the_older_stands() -> None:
    """The first by name of two from the same second; in another pool the name is free."""
    later = model("a", "2026-01-02T00:00:00Z")
    assert said(later, model("b"))[0] == (False, "ModelNameInUse")
    assert said(model("b"), later)[0] == (True, "Accepted")
    assert said(model("b"), model("a"))[0] == (False, "ModelNameInUse")
    assert said(later, model("b", pool="blue"))[0] == (True, "Accepted")


def test_a_model_without_its_pool_says_so() -> None:
    """The pool may come later."""
    assert said(model("a", pool="blue"))[1] == (False, "InvalidPoolRef")


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
def test_an_objective_is_accepted_and_means_a_v1_pool_unless_it_says_otherwise(
    reference: dict[str, str], resolved: bool
) -> None:
    """Nothing can be wrong with it but the reference."""
    accepted, refs = objective_findings(objective(reference), {}, POOLS)
    assert (accepted.holds, refs.holds) == (True, resolved)


def rewrite(name: str, *models: str | None, created: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    """A rule for each of `models`; None is one for all others."""
    rules = [{"matches": [{"model": {"value": each}}]} if each else {"targets": []} for each in models]
    return {
        "kind": "InferenceModelRewrite",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"poolRef": {"name": "green"}, "rules": rules},
    }


@pytest.mark.parametrize(
    ("own", "older", "reason", "told"),
    [
        (["chat"], [], "Accepted", None),
        (["chat"], ["chat"], "ModelNameInUse", "Model 'chat' by InferenceModelRewrite old"),
        (["chat", "code"], ["chat"], "Accepted", "Model 'chat' by InferenceModelRewrite old"),
        ([None], [None, "chat"], "ModelNameInUse", "Models that no rule lists by InferenceModelRewrite old"),
        (["chat"], [None], "Accepted", None),
    ],
)
def test_a_rewrite_tells_which_of_its_models_older_objects_have(
    own: list[str | None], older: list[str | None], reason: str, told: str | None
) -> None:
    """It stands while one is left to it; the older always does."""
    new = rewrite("new", *own, created="2026-02-02T00:00:00Z")
    old = [rewrite("old", *older)] if older else []
    claims = rewrite_claims([new, *old])
    accepted, refs = rewrite_findings(new, claims, POOLS)
    assert (accepted.reason, refs.holds) == (reason, True)
    assert told is None or told in accepted.message
    assert all(rewrite_findings(each, claims, POOLS)[0].holds for each in old)
