"""Requests of clients through both ports of the Gateway."""

import json
import re
from collections.abc import Mapping

import httpx
import pytest
from clusters import Cluster
from extra_objects import PICKER
from releases import MODEL, PICKED, PLAIN, Release
from traffic import Load
from waits import until

POOL = "inferencepools.inference.networking.x-k8s.io/vllm-qwen-pool"
STRATEGY = "inference.networking.x-k8s.io/routing-strategy"


def served(cluster: Cluster, selector: str = "app=qwen", port: int = 8000) -> Mapping[str, int]:
    """Completed requests by pod, from the pods' own counters."""
    counts: dict[str, int] = {}
    for pod in cluster.pods(selector):
        page = cluster.pod_page(pod, port, "/metrics")
        counts[pod] = sum(int(float(n)) for n in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", page, re.M))
    return counts


def answered_since(before: Mapping[str, int], now: Mapping[str, int]) -> list[int]:
    return sorted(now[pod] - before.get(pod, 0) for pod in now)


@pytest.mark.parametrize(("port", "city"), [(PLAIN, "San Francisco"), (PICKED, "Los Angeles")])
def test_both_curls_of_the_tutorial_get_its_response(release: Release, port: int, city: str) -> None:
    """The response has the shape that the tutorial shows."""
    answer = release.chat(port, f"Write as if you were a critic: {city}", max_tokens=100, temperature=0)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["object"], body["model"]) == ("chat.completion", MODEL)
    assert body["usage"]["completion_tokens"] == 100
    [choice] = body["choices"]
    assert (choice["finish_reason"], choice["message"]["role"]) == ("length", "assistant")


def test_a_response_has_the_id_that_explains_its_decision(release: Release) -> None:
    """Envoy Gateway replaces an id of the client."""
    assert release.chat(PICKED, "Hi", max_tokens=1).headers["x-request-id"]


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_a_response_can_be_streamed(release: Release, port: int) -> None:
    """The chunks arrive up to `[DONE]`."""
    body = {
        "model": MODEL,
        "stream": True,
        "max_completion_tokens": 10,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    with httpx.stream("POST", f"{release.urls[port]}/v1/chat/completions", json=body, timeout=30) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert {json.loads(line)["object"] for line in lines[:-1]} == {"chat.completion.chunk"}


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_a_request_without_a_body_is_served(release: Release, port: int) -> None:
    """Any of the pool's servers may respond."""
    models = httpx.get(f"{release.urls[port]}/v1/models", timeout=10).json()
    assert [model["id"] for model in models["data"]] == [MODEL]


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_administrative_routes_of_the_servers_are_not_found(release: Release, port: int) -> None:
    """The servers themselves have each of these routes."""
    with httpx.Client(base_url=release.urls[port], timeout=10) as client:
        assert client.get("/health").status_code == 200
        for method, path in (
            ("GET", "/metrics"), ("POST", "/v1/load_lora_adapter"), ("POST", "/reset_prefix_cache"),
            ("GET", "/version"), ("POST", "/sleep"), ("POST", "/v1/models/../../metrics"), ("GET", "//metrics"),
        ):  # fmt: skip
            assert client.request(method, path, json={} if method == "POST" else None).status_code == 404, path


def test_a_large_prompt_passes(release: Release) -> None:
    """It exceeds the 32 KiB that Envoy Gateway's listeners buffer. The server rejects it: its context is shorter."""
    assert release.chat_status(PICKED, content="word " * 60_000) == 400


def test_requests_that_share_a_prefix_reach_one_pod(release: Release) -> None:
    """Sets the annotation to PREFIX_CACHE under traffic, and back to DEFAULT, which spreads requests over both pods.

    Only one of the two pickers is used by default, and it holds the prefix index.
    """
    cluster = release.cluster
    document = "A long document that every question is about. " * 200
    cluster.kubectl("annotate", "--overwrite", POOL, f"{STRATEGY}=PREFIX_CACHE")
    try:
        until(lambda: _all_follow(cluster, "PREFIX_CACHE"), "every picker follows PREFIX_CACHE")
        release.chat(PICKED, document)
        before = served(cluster)
        for number in range(8):
            assert release.chat_status(PICKED, content=f"{document} Question {number}?") == 200
        assert answered_since(before, served(cluster)) == [0, 8]
        cluster.kubectl("annotate", "--overwrite", POOL, f"{STRATEGY}=DEFAULT")
        until(lambda: _all_follow(cluster, "DEFAULT"), "the picker follows DEFAULT")
    finally:
        cluster.kubectl("annotate", "--overwrite", POOL, f"{STRATEGY}=DEFAULT")
        # New pickers have no speed estimates: one response of a busy start can mark a server as slow.
        cluster.kubectl("scale", f"deployment/{PICKER}", "--replicas=0")
        cluster.wait_for_pods(0, "app.kubernetes.io/name=picker")
        cluster.kubectl("scale", f"deployment/{PICKER}", "--replicas=2")
        cluster.rolled_out(PICKER)
    release.wait_until_serving(PICKED)
    before = served(cluster)
    # Several requests at once: two idle servers have equal costs.
    with Load(release.urls[PICKED], clients=8) as load:
        load.wait_for_answers(40)
    assert load.failures == 0, load.problems
    assert min(answered_since(before, served(cluster))) > 0


def test_a_client_cannot_choose_its_endpoint(release: Release) -> None:
    """A client's value of the protocol's header is ignored."""
    assert release.chat_status(PICKED, headers={"x-gateway-destination-endpoint": "127.0.0.1:1"}) == 200


def test_an_error_response_of_vllm_passes_unchanged(release: Release) -> None:
    """Status and body are equal on both ports."""
    plain, picked = (release.chat(port, model="no-such-model") for port in (PLAIN, PICKED))
    assert plain.status_code == picked.status_code == 404
    assert plain.json() == picked.json()


def _all_follow(cluster: Cluster, strategy: str) -> bool:
    """Whether the last strategy change in every picker's log is to `strategy`."""
    for pod in cluster.pods("app.kubernetes.io/name=picker"):
        logged = re.findall(r"routing-strategy \w+ -> (\w+)", cluster.kubectl("logs", pod))
        if (logged or ["DEFAULT"])[-1] != strategy:
            return False
    return True
