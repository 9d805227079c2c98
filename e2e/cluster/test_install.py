"""The state right after the installation by one command."""

from releases import NAMESPACE, PICKED, Release
from waits import until


def test_the_first_response_comes_soon(release: Release) -> None:
    """Time from `helm install`, with mocks and the images on the node.

    Measured: half a minute on an idle machine; the progress line reports it. The bound only excludes waiting for a
    timeout of minutes.
    """
    assert release.first_response_s is not None
    assert release.first_response_s < 240


def test_every_deployment_is_complete(release: Release) -> None:
    """The Deployments: pickers, extension servers, model servers and Envoy Gateway."""
    for namespace in ("default", NAMESPACE):
        for deployment in release.cluster.items("deployments", "-n", namespace):
            release.cluster.rolled_out(deployment["metadata"]["name"], namespace)  # must not raise


def test_no_container_of_ours_has_restarted(release: Release) -> None:
    """A part that has to wait for another one does not crash."""
    selector = "app.kubernetes.io/part-of=inference-gateway"
    pods = release.cluster.items("pods", "-A", "-l", selector)
    assert pods
    assert [
        pod["metadata"]["name"]
        for pod in pods
        for container in pod["status"]["containerStatuses"]
        if container["restartCount"]
    ] == []


def test_helm_test_passes(release: Release) -> None:
    """The chart's notes recommend it. It sends a chat to both ports."""
    assert "Succeeded" in release.cluster.helm("test", "inference-gateway", "-n", NAMESPACE)


def test_the_pool_has_a_readable_status(release: Release) -> None:
    """`kubectl get xinfpool` shows the strategy and the conditions."""
    assert release.chat_status(PICKED) == 200

    def table() -> list[list[str]]:
        shown = release.cluster.kubectl("get", "xinfpool", "vllm-qwen-pool")
        return [line.split() for line in shown.splitlines()]

    header, _ = table()
    assert header == ["NAME", "PORT", "PICKER", "STRATEGY", "SETTINGS", "ACCEPTED", "RESOLVED", "AGE"]
    # A pool without settings of its own has none in its row.
    expected = ["vllm-qwen-pool", "8000", "inference-gateway-ext-proc", "DEFAULT", "True", "True"]
    until(lambda: table()[1][:6] == expected, f"the row begins with {expected}")
