"""One cluster and one release for all tests of this folder.

pytest e2e/cluster                              a kind cluster, deleted at the end
pytest e2e/cluster --keep-cluster               left there, and used again by the next run
pytest e2e/cluster --kubeconfig ~/.kube/config --helm-values gpus.yaml    a cluster of yours, its images as values say
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import artifacts
import pytest
from clusters import ROOT, Cluster, build_image, kind_cluster, load_images
from e2e.processes import free_ports
from extra_objects import MOCK
from progress import say
from releases import CHART, PICKED, PLAIN, Release, gateway_urls

KIND_NAME = "inference-gateway-e2e"
NODE_IMAGE = "kindest/node:v1.34.4"
IMAGES = {
    "picker": "docker.io/inference-gateway/picker:0.1.0",
    "vllm-mock": MOCK,
    "ci/benchmark": "registry-cn-hangzhou.ack.aliyuncs.com/dev/llm-benchmark:random-and-qa",
}
"""By their Dockerfiles' folders. The benchmark's is under the tutorial's name, which its manifest asks for."""
ORDER = (
    "test_install",
    "test_requests",
    "test_pools",
    "test_conformance",
    "test_statuses",
    "test_access",
    "test_security_examples",
    "test_prometheus",
    "test_failures",
    "test_lifecycle",
)
"""Of the modules: what an installation has to do first comes first, and its end last."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Besides those of pytest-kind: --keep-cluster, --kubeconfig, --kind-image, --cluster-name."""
    parser.getgroup("kind").addoption(
        "--helm-values", action="append", default=[], help="values file for the chart; again for more"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.stem))
    for item in items:
        # Without the session's fixtures: building images and a cluster takes as long as it takes.
        item.add_marker(pytest.mark.timeout(480, func_only=True))


@pytest.fixture(scope="session")
def kind_node(pytestconfig: pytest.Config) -> str | None:
    """The container of the kind cluster's only node; None for a cluster that `--kubeconfig` names."""
    return None if pytestconfig.getoption("--kubeconfig") is not None else f"{KIND_NAME}-control-plane"


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    given: str | None = pytestconfig.getoption("--kubeconfig")
    if given is not None:
        yield Cluster(Path(given), None)
        return
    keep = bool(pytestconfig.getoption("--keep-cluster"))
    folder = ROOT / ".pytest-kind" / KIND_NAME if keep else tmp_path_factory.mktemp("kind")
    folder.mkdir(parents=True, exist_ok=True)
    say(pytestconfig, f"building {', '.join(IMAGES)}")
    builders = ThreadPoolExecutor()
    building = [builders.submit(build_image, name, image) for name, image in IMAGES.items()]
    say(pytestconfig, f"making the kind cluster {KIND_NAME}")
    plain, picked = (18080, 18081) if keep else free_ports(2)
    with kind_cluster(
        KIND_NAME, pytestconfig.getoption("--kind-image") or NODE_IMAGE, {PLAIN: plain, PICKED: picked}, folder, keep
    ) as made:
        for each in building:
            each.result()
        say(pytestconfig, "loading the images")
        load_images(KIND_NAME, list(IMAGES.values()))
        yield made


@pytest.fixture(scope="session")
def release(cluster: Cluster, pytestconfig: pytest.Config) -> Iterator[Release]:
    """Installed by one command. Its last test uninstalls it."""
    files: list[str] = pytestconfig.getoption("--helm-values") or [str(CHART / "ci" / "kind-values.yaml")]
    installed = Release(cluster, [flag for file in files for flag in ("--values", file)])
    say(pytestconfig, "helm install")
    if pytestconfig.getoption("--kubeconfig") is None:
        installed.restrict()
    began_s = time.monotonic()
    installed.install()
    with gateway_urls(cluster) as urls:
        installed.urls = urls
        installed.wait_until_serving(PICKED, 300)
        installed.first_answer_s = time.monotonic() - began_s
        say(pytestconfig, f"first answer on port {PICKED} after {installed.first_answer_s:.1f} s")
        installed.wait_until_serving(PLAIN)
        yield installed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment, misc]
    if report.failed and isinstance(item, pytest.Function):
        cluster = item.funcargs.get("cluster") or getattr(item.funcargs.get("release"), "cluster", None)
        if isinstance(cluster, Cluster):
            folder = ROOT / "out" / "e2e" / item.name
            artifacts.leave(cluster, folder)
            report.sections.append(("left behind", str(folder)))
    return report  # type: ignore[return-value]
