"""Pools beside the tutorial's: versions, weights, models, and what is missing."""

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


def asks(release: Release, name: str, **more: object) -> int:
    return release.answers(PICKED, headers={"x-test": name}, **more)


def answers(release: Release, name: str, count: int) -> Counter[int]:
    """How often each status came."""
    with ThreadPoolExecutor(8) as clients:
        return Counter(clients.map(lambda _: asks(release, name), range(count)))


def wait_for_route(release: Release, name: str, at_once: int = 8, **more: Any) -> None:
    """Until it is the one that answers, not the tutorial's, and so often in a row that each of its pools, each picker
    and each of Envoy's workers has had its turn: all of them hear of a new pool by themselves."""

    def leads_somewhere() -> bool:
        answer = release.chat(PICKED, headers={"x-test": name}, **more)
        return answer.headers.get("x-route") == name and answer.status_code != 503

    with ThreadPoolExecutor(at_once) as clients:
        until(lambda: all(clients.map(lambda _: leads_somewhere(), range(24))), f"route {name} answers every time")


@pytest.mark.usefixtures("servers")
def test_a_v1_pool_stands_beside_a_v1alpha2_pool_of_the_same_name(release: Release) -> None:
    """Each by its own route, to the same servers."""
    objects = [
        pool("red", V1), pool("red", V1ALPHA2), route("new", to_pool("red", V1)), route("old", to_pool("red")),
    ]  # fmt: skip
    with Added(release.cluster, *objects):
        for name in ("new", "old"):
            before = served_by(release, "red")["red"]
            wait_for_route(release, name)
            assert asks(release, name) == 200
            assert served_by(release, "red")["red"] > before


@pytest.mark.usefixtures("servers")
def test_a_port_in_the_reference_to_a_pool_means_nothing(release: Release) -> None:
    """As the specification says."""
    with Added(release.cluster, pool("red", V1), route("port", to_pool("red", V1, port=1234))):
        wait_for_route(release, "port")
        assert asks(release, "port") == 200


@pytest.mark.usefixtures("servers")
def test_two_pools_in_one_rule_share_by_weight(release: Release) -> None:
    """1 to 3, each request to a server of the pool that it fell to. Of 160 there are 40, give or take 5.5."""
    backends = to_pool("red", V1, weight=1), to_pool("blue", V1, weight=3)
    with Added(release.cluster, pool("red", V1), pool("blue", V1), route("split", *backends)):
        wait_for_route(release, "split")
        before = served_by(release, "red", "blue")
        assert answers(release, "split", 160) == {200: 160}
        after = served_by(release, "red", "blue")
        red, blue = after["red"] - before["red"], after["blue"] - before["blue"]
        assert red + blue == 160
        assert 16 <= red <= 64


@pytest.mark.usefixtures("servers")
def test_a_pool_and_a_service_in_one_rule_share_by_weight(release: Release) -> None:
    """The Service's share does not ask the picker."""
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
        assert answers(release, "mixed", 40) == {200: 40}
        after = served_by(release, "red", "blue")
        assert after["red"] > before["red"]
        assert after["blue"] > before["blue"]


@pytest.mark.usefixtures("servers")
def test_targets_of_a_model_share_by_weight(release: Release) -> None:
    """1 to 3, seen in the answers: the servers know the one and not the other."""
    split = model("split", "red", "chat", "Standard", {MODEL: 1, "unknown": 3})
    with Added(release.cluster, pool("red"), split, route("split-model", to_pool("red"))):
        wait_for_route(release, "split-model")
        with ThreadPoolExecutor(8) as clients:
            chats = clients.map(
                lambda _: release.chat(PICKED, headers={"x-test": "split-model"}, model="chat"), range(160)
            )
            told = list(chats)
        counts = Counter(answer.status_code for answer in told)
        assert counts[200] + counts[404] == 160, (counts, [each.text for each in told if each.status_code > 404][:1])
        assert 16 <= counts[200] <= 64, counts
        # The client's own name comes back.
        assert {answer.json()["model"] for answer in told if answer.status_code == 200} == {"chat"}


def test_sheddable_requests_are_refused_when_the_servers_are_full_and_critical_ones_served(release: Release) -> None:
    """A server that runs one sequence at a time, and a queue before it."""
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
            until(lambda: asks(release, "full", model="cheap") == 429, "a sheddable request is refused")
        assert load.failures == 0, load.problems


@pytest.mark.usefixtures("servers")
def test_editing_a_route_under_load_fails_no_request(release: Release) -> None:
    """A second pool beside the first, another in its place and a rule put before it, the first again. Envoy knows both
    pools' endpoints from another route."""
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
    """Until it is in force."""
    release.cluster.apply([edited])
    name = edited["metadata"]["name"]
    until(
        lambda: release.chat(PICKED, headers={"x-test": name}).headers.get("x-route") == mark,
        f"the {mark} edit of route {name} is in force",
    )


def test_a_missing_pool_is_an_error_that_disturbs_nobody(release: Release) -> None:
    """500 on its own route, and the route's status tells."""
    with Added(release.cluster, route("missing", to_pool("nowhere"))):
        until(lambda: asks(release, "missing") == 500, "the route answers 500")
        assert release.answers(PICKED) == 200
        told = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "BackendNotFound")}
        until(lambda: _told_of_route(release, "missing") == told, f"the route's conditions are {told}")


def _told_of_route(release: Release, name: str) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    parents = release.cluster.get("httproute", name).get("status", {}).get("parents", [])
    return {each["type"]: (each["status"], each["reason"]) for parent in parents for each in parent["conditions"]}


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("mode", "answer"), [("FailClose", 503), ("FailOpen", 200)])
def test_a_pool_whose_picker_does_not_exist_does_what_its_failure_mode_says(
    release: Release, mode: str, answer: int
) -> None:
    """Its Service is what is missing; a server is there."""
    name = f"no-picker-{mode.lower()}"
    gone = {**pool("red", V1, "nobody", failureMode=mode)}
    gone["metadata"] = {"name": name, "namespace": "default"}
    with Added(release.cluster, gone, route(name, to_pool(name, V1))):
        until(lambda: asks(release, name) == answer, f"the route answers {answer}")
        if answer == 200:
            wait_for_route(release, name)
        assert release.answers(PICKED) == 200
