"""Pools beside the tutorial's: versions, weights, models, and what is missing."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from additions import V1, V1ALPHA2, Added, model, model_servers, pool, route, to_pool
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


def wait_for_route(release: Release, name: str, **more: Any) -> None:
    """Until it is the one that answers, not the tutorial's, with its clusters: those of a new pool take a moment."""

    def leads_somewhere() -> bool:
        answer = release.chat(PICKED, headers={"x-test": name}, **more)
        return answer.headers.get("x-route") == name and answer.status_code != 503

    until(leads_somewhere, f"route {name} answers")


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
    """1 to 3, each request to a server of the pool that it fell to."""
    backends = to_pool("red", V1, weight=1), to_pool("blue", V1, weight=3)
    with Added(release.cluster, pool("red", V1), pool("blue", V1), route("split", *backends)):
        wait_for_route(release, "split")
        before = served_by(release, "red", "blue")
        assert [asks(release, "split") for _ in range(80)] == [200] * 80
        after = served_by(release, "red", "blue")
        red, blue = after["red"] - before["red"], after["blue"] - before["blue"]
        assert red + blue == 80
        assert 8 <= red <= 34


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
        assert [asks(release, "mixed") for _ in range(40)] == [200] * 40
        after = served_by(release, "red", "blue")
        assert after["red"] > before["red"]
        assert after["blue"] > before["blue"]


@pytest.mark.usefixtures("servers")
def test_targets_of_a_model_share_by_weight(release: Release) -> None:
    """1 to 3, seen in the answers: the servers know the one and not the other."""
    split = model("split", "red", "chat", "Standard", {MODEL: 1, "unknown": 3})
    with Added(release.cluster, pool("red"), split, route("split-model", to_pool("red"))):
        wait_for_route(release, "split-model")
        answers = [release.chat(PICKED, headers={"x-test": "split-model"}, model="chat") for _ in range(80)]
        counts = Counter(answer.status_code for answer in answers)
        assert counts[200] + counts[404] == 80, (counts, [each.text for each in answers if each.status_code > 404][:1])
        assert 8 <= counts[200] <= 34, counts
        # The client's own name comes back.
        assert {answer.json()["model"] for answer in answers if answer.status_code == 200} == {"chat"}


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
        wait_for_route(release, "full", model="cheap")
        headers = {"x-test": "full"}
        with Load(release.urls[PICKED], clients=16, max_tokens=60, model="dear", headers=headers) as load:
            until(lambda: asks(release, "full", model="cheap") == 429, "a sheddable request is refused", 60)
        assert load.failures == 0, load.problems


def test_a_missing_pool_is_an_error_that_disturbs_nobody(release: Release) -> None:
    """500 on its own route, and the route's status tells."""
    with Added(release.cluster, route("missing", to_pool("nowhere"))):
        until(lambda: asks(release, "missing") == 500, "the route answers 500")
        assert release.answers(PICKED) == 200
        status = release.cluster.get("httproute", "missing")["status"]
        conditions = {each["type"]: each for parent in status["parents"] for each in parent["conditions"]}
        assert conditions["Accepted"]["status"] == "True"
        assert (conditions["ResolvedRefs"]["status"], conditions["ResolvedRefs"]["reason"]) == (
            "False",
            "BackendNotFound",
        )


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("mode", "answer"), [("FailClose", 503), ("FailOpen", 200)])
def test_a_pool_whose_picker_does_not_exist_does_what_its_failure_mode_says(
    release: Release, mode: str, answer: int
) -> None:
    """And its status tells why."""
    name = f"no-picker-{mode.lower()}"
    gone = {**pool("red", V1, "nobody", failureMode=mode)}
    gone["metadata"] = {"name": name, "namespace": "default"}
    with Added(release.cluster, gone, route(name, to_pool(name, V1))):
        until(lambda: asks(release, name) == answer, f"the route answers {answer}")
        if answer == 200:
            wait_for_route(release, name)
        assert release.answers(PICKED) == 200
