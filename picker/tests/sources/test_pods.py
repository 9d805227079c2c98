"""Pods that get requests."""

import json
from typing import Any

import pytest
from picker.sources.cluster import ready_server
from picker.sources.inventory import ModelServer

READY = {
    "metadata": {"name": "qwen-0", "namespace": "default", "labels": {"app": "qwen"}},
    "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
}


def pod(**status: Any) -> dict[str, Any]:
    """READY, with changes of its status."""
    created = json.loads(json.dumps(READY))
    created["status"] = {key: value for key, value in {**created["status"], **status}.items() if value is not None}
    return created


def test_a_ready_pod_is_a_model_server() -> None:
    """With its IP. The pool has the port."""
    assert ready_server(READY) == ModelServer("qwen-0", "default", "10.0.0.1", None, {"app": "qwen"})


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": [{"type": "Ready", "status": "False"}]},
        {"conditions": [{"type": "ContainersReady", "status": "True"}]},
        {"conditions": None},
        {"podIP": None},
        {"phase": "Succeeded"},
        {"phase": "Failed"},
    ],
)
def test_a_pod_that_is_not_ready_is_none(status: dict[str, Any]) -> None:
    """A pod that starts, fails, or has ended."""
    assert ready_server(pod(**status)) is None


def test_a_terminating_pod_that_is_ready_still_serves() -> None:
    leaving = pod()
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert ready_server(leaving) == ModelServer("qwen-0", "default", "10.0.0.1", None, {"app": "qwen"}, True)


def test_a_terminating_pod_that_is_not_ready_is_none() -> None:
    leaving = pod(conditions=[{"type": "Ready", "status": "False"}])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert ready_server(leaving) is None


def test_a_pod_without_a_status_is_none() -> None:
    """As directly after its creation."""
    assert ready_server({"metadata": {"name": "a", "namespace": "b"}}) is None
