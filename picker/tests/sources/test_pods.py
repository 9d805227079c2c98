"""Pods that get requests."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.bounded_text import MAX_CHARACTERS
from picker.sources.active_ports import ALL_PORTS, ANNOTATIONS, ActivePorts, active_ports
from picker.sources.cluster import ready_server
from picker.sources.inventory import ModelServer
from structlog.testing import capture_logs

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


@pytest.mark.parametrize(
    ("text", "ports", "ignored"),
    [
        ("8000", {8000}, None),
        (" 8000, 8001 ", {8000, 8001}, None),
        ("", set[int](), None),
        ("8000,http", {8000}, "http"),
        ("http", None, "http"),
        ("0,65536,-1,1e3", None, "0,65536,-1,1e3"),
        ("8000," * 60, None, ("8000," * 60)[: MAX_CHARACTERS - 1] + "\u2026"),
    ],
)
def test_a_pod_names_its_active_ports(text: str, ports: set[int] | None, ignored: str | None) -> None:
    """None: the annotation has no effect. Empty: the pod gets no requests."""
    for name in ANNOTATIONS:
        assert active_ports({name: text}) == ActivePorts(None if ports is None else frozenset(ports), ignored)


def test_the_present_name_of_the_annotation_wins() -> None:
    assert active_ports({ANNOTATIONS[1]: "1", ANNOTATIONS[0]: "2"}).ports == {2}
    assert active_ports({}) == ALL_PORTS


@given(st.text() | st.lists(st.integers()).map(lambda ports: ",".join(map(str, ports))))
def test_any_annotation_is_ports_or_ignored(text: str) -> None:
    read = active_ports({ANNOTATIONS[0]: text})
    assert all(0 < port <= 65535 for port in read.ports or ())
    assert len(read.ignored or "") <= MAX_CHARACTERS


def test_an_invalid_annotation_is_logged_once() -> None:
    invalid = pod()
    invalid["metadata"]["annotations"] = {ANNOTATIONS[0]: "8000,http"}
    with capture_logs() as logs:
        server = ready_server(invalid)
        assert server is not None
        assert ready_server(invalid, server) == server
    [line] = logs
    assert line["problem"] == (
        "Pod default/qwen-0: annotation llm-d.ai/active-ports: found 'http'; allowed are port numbers with commas"
    )
    assert server.active_ports.ports == {8000}
