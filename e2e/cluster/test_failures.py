"""Rollouts, kills and restarts of every part while requests run."""

import subprocess
import time

import pytest
from extra_objects import PICKER
from progress import log_progress
from releases import NAMESPACE, PICKED, PLAIN, Release
from traffic import Load
from waits import until

PICKER_PODS = "app.kubernetes.io/name=picker"
EXTENSION = "inference-gateway-extension"
POOL = "inferencepools.inference.networking.x-k8s.io/vllm-qwen-pool"


def test_a_rollout_of_the_model_servers_fails_no_request(release: Release) -> None:
    """Each pod leaves the pool before it terminates, and completes its running requests."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        release.cluster.kubectl("rollout", "restart", "deployment/qwen")
        release.cluster.rolled_out("qwen")
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_scaling_up_and_down_fails_no_request(release: Release) -> None:
    """Replicas: 2, 6, 1, 2. Terminating pods complete their running requests."""
    with Load(release.urls[PICKED]) as load:
        for replicas in (6, 1, 2):
            release.cluster.kubectl("scale", "deployment/qwen", f"--replicas={replicas}")
            release.cluster.rolled_out("qwen")
            load.wait_for_answers()
        # Five pods were draining during the last two steps.
        release.cluster.wait_for_pods(2, "app=qwen")
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_a_killed_pod_fails_at_most_as_many_requests_as_on_the_plain_port(release: Release) -> None:
    """On both ports the responses that the pod had started fail."""
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
    """New pickers are ready before the old ones terminate. The old ones complete their open streams."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        release.cluster.kubectl("rollout", "restart", f"deployment/{PICKER}")
        release.cluster.rolled_out(PICKER)
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_the_other_replica_takes_over_from_a_killed_picker(release: Release) -> None:
    """A request that waits for its pick at that moment may fail: the pool is FailClose."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        victim = release.cluster.pods(PICKER_PODS)[0]
        release.cluster.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        load.wait_for_answers(40)
    assert load.outcomes["ok"] >= 40
    release.cluster.rolled_out(PICKER)


@pytest.mark.parametrize(("mode", "status"), [("FailClose", 503), ("FailOpen", 200)])
def test_with_no_picker_left_the_pools_failure_mode_applies(release: Release, mode: str, status: int) -> None:
    """Once pickers are back, the pool is served through them again."""
    cluster = release.cluster
    cluster.kubectl("patch", POOL, "--type=merge", f'-p={{"spec": {{"extensionRef": {{"failureMode": "{mode}"}}}}}}')
    cluster.kubectl("scale", f"deployment/{PICKER}", "--replicas=0")
    try:
        cluster.wait_for_pods(0, PICKER_PODS)
        # FailOpen was written before the pickers stopped, but Envoy may receive it later.
        until(
            lambda: [release.chat_status(PICKED) for _ in range(5)] == [status] * 5,
            f"port {PICKED} responds with {status} every time",
        )
        assert release.chat_status(PLAIN) == 200
    finally:
        cluster.kubectl("scale", f"deployment/{PICKER}", "--replicas=2")
        cluster.rolled_out(PICKER)
        cluster.kubectl("patch", POOL, "--type=merge", '-p={"spec": {"extensionRef": {"failureMode": "FailClose"}}}')
    until(lambda: release.chat_status(PICKED) == 200, f"port {PICKED} serves again")


def test_traffic_continues_without_the_extension(release: Release) -> None:
    """Envoy keeps its configuration and its endpoints without the extension.

    Changes wait only until the extension is back: a rollout of the pickers right after it fails no request.
    """
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
    """Pickers and extension keep their state. A starting API server responds with 403 until its authorizer syncs."""
    if kind_node is None:
        pytest.skip("needs a kind cluster that the tests created: the API server is killed in its node")
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        subprocess.run(["docker", "exec", kind_node, "pkill", "-KILL", "-f", "^kube-apiserver"], check=True)
        load.wait_for_answers(30)
        until(release.cluster.is_ready, "the API server is ready again", timeout_s=180)
        load.wait_for_answers(30)
    assert load.failures == 0, load.problems
    # Later changes of the cluster reach Envoy and the pickers.
    with Load(release.urls[PICKED]) as load:
        release.cluster.kubectl("rollout", "restart", "deployment/qwen")
        release.cluster.rolled_out("qwen")
        load.wait_for_answers()
    assert load.failures == 0, load.problems


def test_a_restart_of_envoy_gateway_fails_no_request(release: Release) -> None:
    """The proxies keep running, and the configuration after the restart is the same."""
    with Load(release.urls[PICKED]) as load:
        load.wait_for_answers()
        release.cluster.kubectl("rollout", "restart", "deployment/envoy-gateway", "-n", NAMESPACE)
        release.cluster.rolled_out("envoy-gateway", NAMESPACE)
        load.wait_for_answers(30)
    assert load.failures == 0, load.problems


def test_the_picker_adds_a_ready_pod_soon(release: Release, pytestconfig: pytest.Config) -> None:
    """Time from the pod's readiness to the picker's log line that it joined.

    On an idle machine it is within a second; the progress line reports it. Both times are in whole seconds. The bound
    only excludes waiting for a periodic refresh.
    """
    cluster = release.cluster
    cluster.kubectl("scale", "deployment/qwen", "--replicas=3")
    cluster.rolled_out("qwen")
    newest = max(cluster.items("pods", "-l", "app=qwen"), key=lambda pod: pod["metadata"]["creationTimestamp"])
    name = newest["metadata"]["name"]
    ready = next(condition for condition in newest["status"]["conditions"] if condition["type"] == "Ready")[
        "lastTransitionTime"
    ]
    picker = cluster.pods(PICKER_PODS)[0]
    line = until(
        lambda: next((line for line in cluster.kubectl("logs", picker).splitlines() if f"{name} joined" in line), None),
        "the picker has logged that the pod joined",
    )
    assert line is not None
    joined = line.partition('"timestamp": "')[2][:19]
    joined_s, ready_s = (time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) for text in (joined, ready))
    log_progress(pytestconfig, f"the picker added a ready pod after {joined_s - ready_s:.0f} s")
    assert joined_s - ready_s <= 15
    cluster.kubectl("scale", "deployment/qwen", "--replicas=2")
