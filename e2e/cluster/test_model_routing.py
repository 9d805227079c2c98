"""Three pools behind one host: routes by model, adapters, and a canary between two pools of one model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from extra_objects import V1, Added, Object, model_servers, pool, to_pool
from releases import PICKED, Release
from test_pools import served_by
from waits import until

HOST = "models.example.com"
FIRST, SECOND, ADAPTER = "org/first", "org/second", "first-reviews"


def by_model(header: str, value: str, *backends: Object) -> Object:
    return {"matches": [{"headers": [{"type": "Exact", "name": header, "value": value}]}], "backendRefs": backends}


ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "models", "namespace": "default"},
    "spec": {
        "parentRefs": [{"name": "qwen-inference-gateway", "sectionName": "llm-gw"}],
        "hostnames": [HOST],
        "rules": [
            by_model("X-Gateway-Base-Model-Name", FIRST, to_pool("red")),
            by_model("X-Gateway-Model-Name", SECOND, to_pool("blue", V1, weight=1), to_pool("green", V1, weight=3)),
        ],
    },
}

ADAPTERS = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {
        "name": "adapters",
        "namespace": "default",
        "labels": {"inference.llm-d.ai/ipp-managed": "true"},
    },
    "data": {"baseModel": FIRST, "adapters": f"- {ADAPTER}\n"},
}


@pytest.fixture(scope="module", autouse=True)
def models(release: Release) -> Iterator[None]:
    lora = "--enable-lora", f"--lora-modules={ADAPTER}=/none"
    objects = [
        model_servers("red", 1, f"--served-model-name={FIRST}", *lora),
        model_servers("blue", 1, f"--served-model-name={SECOND}"),
        model_servers("green", 1, f"--served-model-name={SECOND}"),
        pool("red"),
        pool("blue", V1),
        pool("green", V1),
        ROUTE,
    ]
    with Added(release.cluster, *objects):
        for name in (FIRST, SECOND):
            until(lambda name=name: every_status(release, name, 24) == {200: 24}, f"{name} is served every time")
        yield


def chat(release: Release, model: str) -> httpx.Response:
    return release.chat(PICKED, headers={"host": HOST}, model=model)


def every_status(release: Release, model: str, count: int) -> Counter[int]:
    with ThreadPoolExecutor(8) as clients:
        return Counter(clients.map(lambda _: chat(release, model).status_code, range(count)))


def listed(release: Release, **headers: str) -> Sequence[str]:
    answer = httpx.get(f"{release.urls[PICKED]}/v1/models", headers={"host": HOST, **headers}, timeout=30)
    return [item["id"] for item in answer.raise_for_status().json()["data"]]


def test_the_model_in_the_body_selects_the_pool(release: Release) -> None:
    before = served_by(release, "red", "blue", "green")
    assert every_status(release, FIRST, 20) == {200: 20}
    after = served_by(release, "red", "blue", "green")
    assert {name: after[name] - before[name] for name in after} == {"red": 20, "blue": 0, "green": 0}


def test_two_pools_of_a_model_share_by_weight(release: Release) -> None:
    """Weights 1 and 3: of 160 requests, 40 are expected in the first pool, with a standard deviation of 5.5."""
    before = served_by(release, "red", "blue", "green")
    assert every_status(release, SECOND, 160) == {200: 160}
    after = served_by(release, "red", "blue", "green")
    assert after["red"] == before["red"]
    assert 16 <= after["blue"] - before["blue"] <= 64
    assert sum(after.values()) - sum(before.values()) == 160


def test_an_adapter_is_served_by_the_pool_of_its_base_model(release: Release) -> None:
    """A ConfigMap that is created later takes effect, and also one that is deleted."""
    assert chat(release, ADAPTER).status_code == 404
    with Added(release.cluster, ADAPTERS):
        until(lambda: ADAPTER in listed(release), "the list has the adapter")
        until(lambda: every_status(release, ADAPTER, 24) == {200: 24}, "the adapter is served every time")
        assert chat(release, ADAPTER).json()["model"] == ADAPTER
    until(lambda: ADAPTER not in listed(release), "the list no longer has the adapter")


def test_the_list_has_the_models_of_all_pools(release: Release) -> None:
    assert listed(release) == [FIRST, SECOND]
    assert listed(release, **{"anthropic-version": "2023-06-01"}) == [FIRST, SECOND]


def test_an_unknown_model_gets_openais_error(release: Release) -> None:
    answer = chat(release, "unknown")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_a_clients_header_selects_no_route(release: Release) -> None:
    spoofed = {"host": HOST, "x-gateway-model-name": SECOND, "x-gateway-base-model-name": FIRST}
    assert release.chat(PICKED, headers=spoofed, model="unknown").status_code == 404


def test_a_large_body_passes(release: Release) -> None:
    """Beyond the 32 KiB of a listener's buffer. The server rejects the length of the prompt itself."""
    answer = release.chat(PICKED, "word " * 400_000, headers={"host": HOST}, model=FIRST)
    assert answer.status_code in (200, 400), answer.text[:200]


def test_other_hosts_of_the_listener_are_served_as_before(release: Release) -> None:
    assert release.chat(PICKED).status_code == 200
