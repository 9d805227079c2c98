"""One command, and it serves."""

from releases import NAMESPACE, PICKED, Release
from waits import until


def test_the_first_answer_comes_soon(release: Release) -> None:
    """From `helm install`, with mocks, the images on the node: half a minute on a machine that does nothing else, which
    the line of progress tells; here is told only that nothing waits for a timeout of minutes."""
    assert release.first_answer_s is not None
    assert release.first_answer_s < 240


def test_every_deployment_is_complete(release: Release) -> None:
    """Two pickers, two extension servers, the model servers, Envoy Gateway."""
    for namespace in ("default", NAMESPACE):
        for deployment in release.cluster.items("deployments", "-n", namespace):
            release.cluster.rolled_out(deployment["metadata"]["name"], namespace)


def test_no_container_of_ours_has_started_twice(release: Release) -> None:
    """Nothing waits for another part by crashing."""
    selector = "app.kubernetes.io/part-of=inference-gateway"
    pods = release.cluster.items("pods", "-A", "-l", selector)
    assert pods
    assert [
        pod["metadata"]["name"] for pod in pods for each in pod["status"]["containerStatuses"] if each["restartCount"]
    ] == []


def test_helm_test_asks_both_ports(release: Release) -> None:
    """As the notes of the chart say."""
    assert "Succeeded" in release.cluster.helm("test", "inference-gateway", "-n", NAMESPACE)


def test_the_pool_has_a_readable_status(release: Release) -> None:
    """`kubectl get xinfpool` is where people look first."""
    assert release.answers(PICKED) == 200

    def table() -> list[list[str]]:
        shown = release.cluster.kubectl("get", "xinfpool", "vllm-qwen-pool")
        return [line.split() for line in shown.splitlines()]

    header, _ = table()
    assert header == ["NAME", "PORT", "PICKER", "STRATEGY", "ACCEPTED", "RESOLVED", "AGE"]
    wanted = ["vllm-qwen-pool", "8000", "inference-gateway-ext-proc", "DEFAULT", "True", "True"]
    until(lambda: table()[1][:6] == wanted, f"the row begins with {wanted}")
