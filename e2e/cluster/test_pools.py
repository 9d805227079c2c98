"""Pools besides the tutorial's: API versions, weights, models, and missing objects."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from extra_objects import V1, V1ALPHA2, Added, Object, model, model_servers, pool, route, to_pool
from releases import MODEL, PICKED, Release
from test_requests import served
from traffic import Load
from waits import until


@pytest.fixture(scope="module")
def servers(release: Release) -> Iterator[None]:
    """Two fleets of one mock each, `red` and `blue`."""
    with Added(release.cluster, model_servers("red"), model_servers("blue")):
        yield


def served_by(release: Release, *fleets: str) -> dict[str, int]:
    return {fleet: sum(served(release.cluster, f"app={fleet}").values()) for fleet in fleets}


def chat_status(release: Release, name: str, **more: object) -> int:
    return release.chat_status(PICKED, headers={"x-test": name}, **more)


def chat_statuses(release: Release, name: str, count: int) -> Counter[int]:
    """Number of responses by status, of `count` chats."""
    with ThreadPoolExecutor(8) as clients:
        return Counter(clients.map(lambda _: chat_status(release, name), range(count)))


def wait_for_route(release: Release, name: str, at_once: int = 8, **more: Any) -> None:
    """Waits until 24 responses in a row come from route `name` and not from the tutorial's.

    That many reach each of its pools, each picker and each of Envoy's workers: each of them learns of a new pool
    separately.
    """

    def is_in_force() -> bool:
        answer = release.chat(PICKED, headers={"x-test": name}, **more)
        return answer.headers.get("x-route") == name and answer.status_code != 503

    with ThreadPoolExecutor(at_once) as clients:
        until(lambda: all(clients.map(lambda _: is_in_force(), range(24))), f"route {name} responds every time")


@pytest.mark.usefixtures("servers")
def test_a_v1_and_a_v1alpha2_pool_of_the_same_name_both_serve(release: Release) -> None:
    """Each has its own route. Both select the same servers."""
    objects = [
        pool("red", V1), pool("red", V1ALPHA2), route("new", to_pool("red", V1)), route("old", to_pool("red")),
    ]  # fmt: skip
    with Added(release.cluster, *objects):
        for name in ("new", "old"):
            before = served_by(release, "red")["red"]
            wait_for_route(release, name)
            assert chat_status(release, name) == 200
            assert served_by(release, "red")["red"] > before


@pytest.mark.usefixtures("servers")
def test_a_port_in_the_reference_to_a_pool_is_ignored(release: Release) -> None:
    """The specification requires it: pools name their own ports."""
    with Added(release.cluster, pool("red", V1), route("port", to_pool("red", V1, port=1234))):
        wait_for_route(release, "port")
        assert chat_status(release, "port") == 200


@pytest.mark.usefixtures("servers")
def test_two_pools_in_one_rule_share_by_weight(release: Release) -> None:
    """Weights 1 and 3: of 160 requests, 40 are expected in the first pool, with a standard deviation of 5.5."""
    backends = to_pool("red", V1, weight=1), to_pool("blue", V1, weight=3)
    with Added(release.cluster, pool("red", V1), pool("blue", V1), route("split", *backends)):
        wait_for_route(release, "split")
        before = served_by(release, "red", "blue")
        assert chat_statuses(release, "split", 160) == {200: 160}
        after = served_by(release, "red", "blue")
        red, blue = after["red"] - before["red"], after["blue"] - before["blue"]
        assert red + blue == 160
        assert 16 <= red <= 64


@pytest.mark.usefixtures("servers")
def test_a_pool_and_a_service_in_one_rule_share_by_weight(release: Release) -> None:
    """Requests to the Service do not pass the picker."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "blue", "namespace": "default"},
        "spec": {"selector": {"app": "blue"}, "ports": [{"port": 8000}]},
    }
    backends = to_pool("red", V1, weight=1), {"kind": "Service", "name": "blue", "port": 8000, "weight": 1}
    with Added(release.cluster, service, pool("red", V1), route("mixed", *backends)):
        wait_for_route(release, "mixed")
        before = served_by(release, "red", "blue")
        assert chat_statuses(release, "mixed", 40) == {200: 40}
        after = served_by(release, "red", "blue")
        assert after["red"] > before["red"]
        assert after["blue"] > before["blue"]


@pytest.mark.usefixtures("servers")
def test_targets_of_a_model_share_by_weight(release: Release) -> None:
    """Weights 1 and 3. The servers respond with 404 to the second target, which they do not serve."""
    split = model("split", "red", "chat", "Standard", {MODEL: 1, "unknown": 3})
    with Added(release.cluster, pool("red"), split, route("split-model", to_pool("red"))):
        wait_for_route(release, "split-model")
        with ThreadPoolExecutor(8) as clients:
            chats = clients.map(
                lambda _: release.chat(PICKED, headers={"x-test": "split-model"}, model="chat"), range(160)
            )
            responses = list(chats)
        counts = Counter(answer.status_code for answer in responses)
        assert counts[200] + counts[404] == 160, (
            counts,
            [answer.text for answer in responses if answer.status_code > 404][:1],
        )
        assert 16 <= counts[200] <= 64, counts
        # Responses carry the model name that the client sent.
        assert {answer.json()["model"] for answer in responses if answer.status_code == 200} == {"chat"}


def test_a_saturated_pool_rejects_sheddable_and_serves_critical_requests(release: Release) -> None:
    """The pool's server runs one sequence at a time and has a queue."""
    objects = [
        model_servers("full", 1, "--max-num-seqs=1"),
        pool("full"),
        model("sheddable", "full", "cheap", "Sheddable", {MODEL: 1}),
        model("critical", "full", "dear", "Critical", {MODEL: 1}),
        route("full", to_pool("full")),
    ]
    with Added(release.cluster, *objects):
        wait_for_route(release, "full", at_once=1, model="cheap")
        headers = {"x-test": "full"}
        with Load(release.urls[PICKED], clients=12, max_tokens=30, model="dear", headers=headers) as load:
            until(lambda: chat_status(release, "full", model="cheap") == 429, "a sheddable request is rejected")
        assert load.failures == 0, load.problems


@pytest.mark.usefixtures("servers")
def test_editing_a_route_under_load_fails_no_request(release: Release) -> None:
    """Three edits: add a second pool, replace the first one and insert a rule before it, restore the first one.

    Another route keeps both pools' endpoints in Envoy.
    """
    red, blue = to_pool("red", V1), to_pool("blue", V1)
    with Added(release.cluster, pool("red", V1), pool("blue", V1), route("kept", red, blue), route("edited", red)):
        wait_for_route(release, "kept")
        wait_for_route(release, "edited")
        with Load(release.urls[PICKED], max_tokens=5, headers={"x-test": "edited"}) as load:
            edit(release, "first", route("edited", red, blue, mark="first"))
            load.wait_for_answers(20)
            before = route("before", red)["spec"]["rules"]
            edit(release, "second", route("edited", blue, mark="second", rules_before=before))
            load.wait_for_answers(20)
            edit(release, "third", route("edited", red, mark="third"))
            load.wait_for_answers(20)
    assert load.failures == 0, load.problems


def edit(release: Release, mark: str, edited: Object) -> None:
    """Applies the edited route and waits until it is in force. `mark`: the edit's value of `x-route`."""
    release.cluster.apply([edited])
    name = edited["metadata"]["name"]
    until(
        lambda: release.chat(PICKED, headers={"x-test": name}).headers.get("x-route") == mark,
        f"the {mark} edit of route {name} is in force",
    )


def test_a_missing_pool_affects_only_its_own_route(release: Release) -> None:
    """The route responds with 500, and its status reports the missing pool."""
    with Added(release.cluster, route("missing", to_pool("nowhere"))):
        until(lambda: chat_status(release, "missing") == 500, "the route responds with 500")
        assert release.chat_status(PICKED) == 200
        expected = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "BackendNotFound")}
        until(lambda: _route_conditions(release, "missing") == expected, f"the route's conditions are {expected}")


def _route_conditions(release: Release, name: str) -> dict[str, tuple[str, str]]:
    """Status and reason of the route's conditions, by type."""
    parents = release.cluster.get("httproute", name).get("status", {}).get("parents", [])
    return {
        condition["type"]: (condition["status"], condition["reason"])
        for parent in parents
        for condition in parent["conditions"]
    }


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("mode", "status"), [("FailClose", 503), ("FailOpen", 200)])
def test_a_pool_without_its_picker_service_follows_its_failure_mode(release: Release, mode: str, status: int) -> None:
    """The Service that the pool names does not exist. The pool has a server."""
    name = f"no-picker-{mode.lower()}"
    gone = {**pool("red", V1, "no-such-picker", failureMode=mode)}
    gone["metadata"] = {"name": name, "namespace": "default"}
    with Added(release.cluster, gone, route(name, to_pool(name, V1))):
        until(lambda: chat_status(release, name) == status, f"the route responds with {status}")
        if status == 200:
            wait_for_route(release, name)
        assert release.chat_status(PICKED) == 200
