"""One cluster and one release for all tests of this folder. `phases.py` holds the order of the tests.

pytest e2e/cluster                              on a kind cluster, deleted at the end
pytest e2e/cluster --keep-cluster               on a kind cluster, kept and reused by the next run
pytest e2e/cluster --kubeconfig ~/.kube/config --helm-values gpus.yaml    on an existing cluster, images by the values
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
from phases import ORDER
from progress import log_progress
from releases import CHART, PICKED, PLAIN, Release, gateway_urls

KIND_NAME = "inference-gateway-e2e"
NODE_IMAGE = "kindest/node:v1.34.4"
IMAGES = {
    "picker": "docker.io/inference-gateway/picker:0.1.0",
    "vllm-mock": MOCK,
    "benchmark": "registry-cn-hangzhou.ack.aliyuncs.com/dev/llm-benchmark:random-and-qa",
}
"""Images by package. The benchmark's has the name that the tutorial's manifest uses."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds to pytest-kind's options (--keep-cluster, --kubeconfig, --kind-image, --cluster-name)."""
    parser.getgroup("kind").addoption(
        "--helm-values", action="append", default=[], help="values file of the chart; may be repeated"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests into the order of their phases. Within a module the order stays."""
    items.sort(key=lambda item: ORDER.index(item.path.stem))
    for item in items:
        # The limit excludes the session's fixtures: the time to build images and a cluster is not bounded.
        item.add_marker(pytest.mark.timeout(480, func_only=True))


@pytest.fixture(scope="session")
def kind_node(pytestconfig: pytest.Config) -> str | None:
    """The container of the kind cluster's only node. None for a cluster that `--kubeconfig` names."""
    return None if pytestconfig.getoption("--kubeconfig") is not None else f"{KIND_NAME}-control-plane"


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of `--kubeconfig`, or a kind cluster with the project's images."""
    given: str | None = pytestconfig.getoption("--kubeconfig")
    if given is not None:
        yield Cluster(Path(given), None)
        return
    keep = bool(pytestconfig.getoption("--keep-cluster"))
    folder = ROOT / ".pytest-kind" / KIND_NAME if keep else tmp_path_factory.mktemp("kind")
    folder.mkdir(parents=True, exist_ok=True)
    log_progress(pytestconfig, f"building {', '.join(IMAGES)}")
    builders = ThreadPoolExecutor()
    building = [builders.submit(build_image, name, image) for name, image in IMAGES.items()]
    log_progress(pytestconfig, f"creating the kind cluster {KIND_NAME}")
    plain, picked = (18080, 18081) if keep else free_ports(2)
    with kind_cluster(
        KIND_NAME, pytestconfig.getoption("--kind-image") or NODE_IMAGE, {PLAIN: plain, PICKED: picked}, folder, keep
    ) as made:
        for build in building:
            build.result()
        log_progress(pytestconfig, "loading the images")
        load_images(KIND_NAME, list(IMAGES.values()))
        yield made


@pytest.fixture(scope="session")
def release(cluster: Cluster, pytestconfig: pytest.Config) -> Iterator[Release]:
    """The release, installed by one command. The last test uninstalls it."""
    files: list[str] = pytestconfig.getoption("--helm-values") or [str(CHART / "ci" / "kind-values.yaml")]
    installed = Release(cluster, [flag for file in files for flag in ("--values", file)])
    log_progress(pytestconfig, "helm install")
    if pytestconfig.getoption("--kubeconfig") is None:
        installed.restrict()
    began_s = time.monotonic()
    installed.install()
    with gateway_urls(cluster) as urls:
        installed.urls = urls
        installed.wait_until_serving(PICKED, 300)
        installed.first_response_s = time.monotonic() - began_s
        log_progress(pytestconfig, f"first response on port {PICKED} after {installed.first_response_s:.1f} s")
        installed.wait_until_serving(PLAIN)
        yield installed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Collects artifacts of a failed test in out/e2e, and adds their folder to its report."""
    report: pytest.TestReport = yield  # type: ignore[assignment, misc]
    if report.failed and isinstance(item, pytest.Function):
        cluster = item.funcargs.get("cluster") or getattr(item.funcargs.get("release"), "cluster", None)
        if isinstance(cluster, Cluster):
            folder = ROOT / "out" / "e2e" / item.name
            artifacts.collect_artifacts(cluster, folder)
            report.sections.append(("artifacts", str(folder)))
    return report  # type: ignore[return-value]
