"""What the status of an InferenceModel says."""

from typing import Any

from picker.kubernetes.model_status import model_findings
from picker.resources.names import POOL_GROUP_V1ALPHA2, PoolName

POOLS = {PoolName(POOL_GROUP_V1ALPHA2, "default", "red")}


def model(name: str, created: str = "2026-01-01T00:00:00Z", pool: str = "red") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"modelName": "chat", "poolRef": {"name": pool}},
    }


def said(asked: dict[str, Any], *others: dict[str, Any]) -> list[tuple[bool, str]]:
    return [(each.holds, each.reason) for each in model_findings(asked, [asked, *others], POOLS)]


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
