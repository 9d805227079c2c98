"""Parts that go while requests are under way."""

import subprocess
import time

import pytest
from extra_objects import PICKER
from progress import say
from releases import NAMESPACE, PICKED, PLAIN, Release
from traffic import Load
from waits import until

PICKER_PODS = "app.kubernetes.io/name=picker"
EXTENSION = "inference-gateway-extension"
POOL = "inferencepools.inference.networking.x-k8s.io/vllm-qwen-pool"


def test_a_rollout_of_the_model_servers_fails_no_request(release: Release) -> None:
    """Each pod leaves the pool before it goes, and finishes what it has begun."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        release.cluster.kubectl("rollout", "restart", "deployment/qwen")
        release.cluster.rolled_out("qwen")
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_scaling_up_and_down_fails_no_request(release: Release) -> None:
    """2 to 6 to 1 to 2; those that go finish what they have begun."""
    with Load(release.urls[PICKED]) as load:
        for replicas in (6, 1, 2):
            release.cluster.kubectl("scale", "deployment/qwen", f"--replicas={replicas}")
            release.cluster.rolled_out("qwen")
            load.wait_for_answers()
        # Five of them were draining while the last two steps went on.
        release.cluster.wait_for_pods(2, "app=qwen")
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_a_killed_pod_fails_no_more_requests_than_on_the_plain_port(release: Release) -> None:
    """Those that it had begun to answer are lost on both."""
    with Load(release.urls[PICKED]) as picked, Load(release.urls[PLAIN]) as plain:
        picked.wait_for_answers()
        plain.wait_for_answers()
        victim = release.cluster.pods("app=qwen")[0]
        release.cluster.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        release.cluster.rolled_out("qwen")
        picked.wait_for_answers()
        plain.wait_for_answers()
    assert picked.failures <= max(plain.failures, picked.clients), picked.problems


def test_a_rollout_of_the_pickers_fails_no_request(release: Release) -> None:
    """New ones answer before the old ones go, and those hand back what they were asked."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        release.cluster.kubectl("rollout", "restart", f"deployment/{PICKER}")
        release.cluster.rolled_out(PICKER)
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_a_killed_picker_costs_little(release: Release) -> None:
    """Its twin takes over; a request that was being picked for at that moment may fail, as the pool says."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        victim = release.cluster.pods(PICKER_PODS)[0]
        release.cluster.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        load.wait_for_answers(40)
    assert load.outcomes["ok"] >= 40
    release.cluster.rolled_out(PICKER)


@pytest.mark.parametrize(("mode", "answer"), [("FailClose", 503), ("FailOpen", 200)])
def test_with_no_picker_left_the_pool_does_what_its_failure_mode_says(release: Release, mode: str, answer: int) -> None:
    """And with one back, it picks again."""
    cluster = release.cluster
    cluster.kubectl("patch", POOL, "--type=merge", f'-p={{"spec": {{"extensionRef": {{"failureMode": "{mode}"}}}}}}')
    cluster.kubectl("scale", f"deployment/{PICKER}", "--replicas=0")
    try:
        cluster.wait_for_pods(0, PICKER_PODS)
        # FailOpen was written before the pickers went, but Envoy may hear of it after.
        until(
            lambda: [release.answers(PICKED) for _ in range(5)] == [answer] * 5,
            f"port {PICKED} answers {answer} every time",
        )
        assert release.answers(PLAIN) == 200
    finally:
        cluster.kubectl("scale", f"deployment/{PICKER}", "--replicas=2")
        cluster.rolled_out(PICKER)
        cluster.kubectl("patch", POOL, "--type=merge", '-p={"spec": {"extensionRef": {"failureMode": "FailClose"}}}')
    until(lambda: release.answers(PICKED) == 200, f"port {PICKED} answers again")


def test_traffic_goes_on_without_the_extension(release: Release) -> None:
    """Envoy keeps its configuration and its endpoints; a change waits until the extension is back, and no longer: the
    pickers can roll at once."""
    cluster = release.cluster
    cluster.kubectl("scale", f"deployment/{EXTENSION}", "-n", NAMESPACE, "--replicas=0")
    try:
        cluster.wait_for_pods(0, "app.kubernetes.io/name=extension", NAMESPACE)
        with Load(release.urls[PICKED]) as load:
            load.wait_for_answers(30)
        assert load.failures == 0, load.problems
    finally:
        cluster.kubectl("scale", f"deployment/{EXTENSION}", "-n", NAMESPACE, "--replicas=2")
        cluster.rolled_out(EXTENSION, NAMESPACE)
    with Load(release.urls[PICKED]) as load:
        cluster.kubectl("rollout", "restart", f"deployment/{PICKER}")
        cluster.rolled_out(PICKER)
        load.wait_for_answers(30)
    assert load.failures == 0, load.problems


def test_a_restarted_api_server_fails_no_request(release: Release, kind_node: str | None) -> None:
    """While it starts it answers 403 until its authorizer has synced; what pickers and extension know stays known."""
    if kind_node is None:
        pytest.skip("needs a kind cluster of the tests' own: the API server is killed in its node")
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        subprocess.run(["docker", "exec", kind_node, "pkill", "-KILL", "-f", "^kube-apiserver"], check=True)
        load.wait_for_answers(30)
        until(release.cluster.answers, "the API server answers again", timeout_s=180)
        load.wait_for_answers(30)
    assert load.failures == 0, load.problems
    # Changes are followed again.
    with Load(release.urls[PICKED]) as load:
        release.cluster.kubectl("rollout", "restart", "deployment/qwen")
        release.cluster.rolled_out("qwen")
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_a_restart_of_envoy_gateway_fails_no_request(release: Release) -> None:
    """The proxies run on, and the configuration that comes after is the same."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        release.cluster.kubectl("rollout", "restart", "deployment/envoy-gateway", "-n", NAMESPACE)
        release.cluster.rolled_out("envoy-gateway", NAMESPACE)
        load.wait_for_answers(30)
    assert load.failures == 0, load.problems


def test_the_picker_hears_of_a_pod_soon(release: Release, pytestconfig: pytest.Config) -> None:
    """From the moment that its probe has succeeded, by the picker's own log: within a second where nothing else wants
    the cores, which the line of progress tells. Both are told in whole seconds; what is told here is only that nobody
    waits for the next round of anything."""
    cluster = release.cluster
    cluster.kubectl("scale", "deployment/qwen", "--replicas=3")
    cluster.rolled_out("qwen")
    newest = max(cluster.items("pods", "-l", "app=qwen"), key=lambda pod: pod["metadata"]["creationTimestamp"])
    name = newest["metadata"]["name"]
    ready = next(each for each in newest["status"]["conditions"] if each["type"] == "Ready")["lastTransitionTime"]
    picker = cluster.pods(PICKER_PODS)[0]
    line = until(
        lambda: next((line for line in cluster.kubectl("logs", picker).splitlines() if f"{name} joined" in line), None),
        "the picker has heard of the pod",
    )
    assert line is not None
    heard = line.partition('"timestamp": "')[2][:19]
    heard_s, ready_s = (time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) for text in (heard, ready))
    say(pytestconfig, f"the picker heard of a ready pod {heard_s - ready_s:.0f} s later")
    assert heard_s - ready_s <= 15
    cluster.kubectl("scale", "deployment/qwen", "--replicas=2")
