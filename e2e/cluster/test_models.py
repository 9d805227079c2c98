"""A release with several models, of the chart's values file for two mocks."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from releases import CHART, NAME, NAMESPACE, PICKED, PLAIN, Release
from test_requests import served
from waits import until

DEPLOYMENTS = {"chat": f"{NAME}-chat", "chat-sql": f"{NAME}-chat", "qwen/coder": f"{NAME}-code"}
"""Deployment by the name of the model or adapter in requests."""


@pytest.fixture(scope="module", autouse=True)
def models(release: Release) -> Iterator[None]:
    """Upgrades the release to several models, and back at the end."""
    release.install("--values", str(CHART / "ci" / "models-values.yaml"))
    for deployment in set(DEPLOYMENTS.values()):
        release.cluster.rolled_out(deployment)
    for port in (PLAIN, PICKED):
        for model in DEPLOYMENTS:
            _wait_until_serving(release, port, model)
    yield
    release.install()
    release.cluster.rolled_out("qwen")
    for port in (PLAIN, PICKED):
        release.wait_until_serving(port)


def _wait_until_serving(release: Release, port: int, model: str) -> None:
    """Waits until 24 responses in a row succeed. Each of Envoy's workers learns of a new route separately."""
    with ThreadPoolExecutor(8) as clients:
        until(
            lambda: all(clients.map(lambda _: release.chat_status(port, model=model) == 200, range(24))),
            f"port {port} serves {model} every time",
        )


def _served(release: Release) -> Mapping[str, int]:
    """Completed requests by Deployment."""
    deployments = set(DEPLOYMENTS.values())
    return {name: sum(served(release.cluster, f"app={name}").values()) for name in deployments}


@pytest.mark.parametrize("port", [PLAIN, PICKED])
@pytest.mark.parametrize("model", DEPLOYMENTS)
def test_a_request_reaches_the_servers_of_its_model(release: Release, port: int, model: str) -> None:
    """Also by the name of an adapter. The response has the name of the request."""
    before = _served(release)
    answers = [release.chat(port, model=model) for _ in range(4)]
    assert [(answer.status_code, answer.json()["model"]) for answer in answers] == [(200, model)] * 4
    after = _served(release)
    new = {name: after[name] - before[name] for name in after}
    assert new == {name: 4 * (name == DEPLOYMENTS[model]) for name in after}


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_the_list_of_models_has_all_of_them(release: Release, port: int) -> None:
    """With the adapters. The servers of one model list only their own."""
    listed = httpx.get(f"{release.urls[port]}/v1/models", timeout=10).json()
    assert {model["id"] for model in listed["data"]} == DEPLOYMENTS.keys()


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_an_unknown_model_is_not_found(release: Release, port: int) -> None:
    answer = release.chat(port, model="no-such-model")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_a_client_cannot_select_a_model_by_the_header(release: Release, port: int) -> None:
    """The gateway overwrites the header with the model of the body."""
    before = _served(release)
    answer = release.chat(port, model="qwen/coder", headers={"X-Gateway-Model-Name": "chat"})
    assert (answer.status_code, answer.json()["model"]) == (200, "qwen/coder")
    assert _served(release)[f"{NAME}-chat"] == before[f"{NAME}-chat"]


def test_each_pool_is_accepted_and_has_its_own_strategy(release: Release) -> None:
    def strategies() -> dict[str, list[str]]:
        rows = [line.split() for line in release.cluster.kubectl("get", "xinfpool").splitlines()]
        return {row[0]: row[3:6] for row in rows[1:]}

    expected = {f"{NAME}-chat": ["DEFAULT", "True", "True"], f"{NAME}-code": ["PREFIX_CACHE", "True", "True"]}
    until(lambda: strategies() == expected, f"the pools are {expected}")


def test_helm_test_passes_with_several_models(release: Release) -> None:
    """It sends a chat for each model to both ports."""
    assert "Succeeded" in release.cluster.helm("test", NAME, "-n", NAMESPACE)
