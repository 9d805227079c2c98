"""The release that a nightly run installs, in an own namespace that is deleted with all its objects."""

import subprocess
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from kubernetes.utils import FailToCreateError
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from nightly.cluster import Cluster
from nightly.settings import Settings

GATEWAY = "qwen-inference-gateway"
POOL = "vllm-qwen-pool"
SERVERS = "app=qwen"
PORTS = (8080, 8081)
"""The plain route, and the route through the pool."""
_POLL_S = 1.0
# Judgement: generous, because a timeout costs a whole run.
_HELM_TIMEOUT_S = 600
_DELETION_TIMEOUT_S = 600
_ANSWER_TIMEOUT_S = 300

Log = Callable[[str], None]
Found = TypeVar("Found")


class NightlyFailed(Exception):
    """A step of the run failed or timed out. The message is printed to the user."""


@dataclass(frozen=True, slots=True)
class Release:
    """An installed release."""

    settings: Settings
    cluster: Cluster

    def test(self) -> None:
        """Runs `helm test`: one chat request through each port. Raises NightlyFailed with the test's log."""
        name = self.settings.namespace
        try:
            _helm("test", name, "--namespace", name, "--hide-notes")
        except NightlyFailed as error:
            raise NightlyFailed(f"{error}\n{self.cluster.log(name, f'{name}-test')}") from None

    def set_strategy(self, strategy: str) -> None:
        """Sets the pool's strategy; it takes effect without a restart."""
        self.cluster.annotate_pool(
            self.settings.namespace, POOL, "inference.networking.x-k8s.io/routing-strategy", strategy
        )

    def urls(self) -> dict[int, str]:
        """The URLs of the Gateway's ports inside the cluster, once both answer. Raises NightlyFailed.

        Envoy Gateway creates the proxy, and helm does not wait for it."""
        address = _wait_for(
            lambda: self.cluster.gateway_address(self.settings.namespace, GATEWAY),
            f"Envoy Gateway has created no Service for Gateway {GATEWAY}",
            120,
        )
        urls = {port: f"http://{address}:{port}" for port in PORTS}
        for port, url in urls.items():
            _wait_for(partial(is_answering, url), f"port {port} does not answer", _ANSWER_TIMEOUT_S)
        return urls

    def replicas(self) -> dict[str, str]:
        """The URLs of the servers' metrics pages, by pod name."""
        pods = self.cluster.running_pods(self.settings.namespace, SERVERS)
        return {name: f"http://{ip}:8000/metrics" for name, ip in pods.items()}


@contextmanager
def installed(settings: Settings, cluster: Cluster, log: Log) -> Generator[Release]:
    """Installs the release, waits until every server has loaded the model, and removes everything on exit.

    Raises NightlyFailed."""
    name = settings.namespace
    if cluster.has_namespace(name):
        log(f"removing the objects of an earlier run in {name}")
        remove(settings, cluster)
    try:
        log(f"installing into {name}, waiting up to {settings.ready_timeout_s} s for the model")
        try:
            _helm(*install_arguments(settings), timeout_s=settings.ready_timeout_s + 60)
        except NightlyFailed as error:
            raise NightlyFailed(f"{error}\n{cluster.state(name)}") from None
        _add_objects(settings, cluster)
        yield Release(settings, cluster)
    finally:
        log(f"removing {name}")
        remove(settings, cluster)


def _add_objects(settings: Settings, cluster: Cluster) -> None:
    """Creates the additional objects. Raises NightlyFailed if this fails or they do not become ready."""
    name = settings.namespace
    for file in settings.objects:
        try:
            cluster.create(file, name)
        except (FailToCreateError, OSError) as error:
            raise NightlyFailed(f"{file}: {error}") from None
    if settings.objects:
        try:
            _wait_for(lambda: cluster.is_ready(name), "servers are not ready", settings.ready_timeout_s)
        except NightlyFailed as error:
            raise NightlyFailed(f"{error}\n{cluster.state(name)}") from None


def install_arguments(settings: Settings) -> Sequence[str]:
    """The arguments of helm.

    The release has its own GatewayClass and controller name, so that it and another Envoy Gateway of the cluster
    ignore each other's Gateways."""
    name = settings.namespace
    controller = f"gateway.envoyproxy.io/{name}"
    own = {
        "workload.namespace": name,
        "gateway.className": name,
        "gateway.controllerName": controller,
        "gateway-helm.config.envoyGateway.gateway.controllerName": controller,
        "picker.watchNamespace": name,
        "benchmark.enabled": "false",
    }
    values = [flag for file in settings.values for flag in ("--values", file)]
    sets = [flag for key, value in own.items() for flag in ("--set", f"{key}={value}")]
    return [
        "upgrade", "--install", name, settings.chart, "--namespace", name, "--create-namespace",
        "--wait", "--timeout", f"{settings.ready_timeout_s}s", *values, *sets,
    ]  # fmt: skip


def remove(settings: Settings, cluster: Cluster) -> None:
    """Removes the release, its namespace, and the cluster-scoped objects of the hooks of Envoy Gateway's chart.

    CRDs stay, because others may use them. Raises NightlyFailed if the namespace is not deleted in time."""
    name = settings.namespace
    # The chart's pre-delete hook runs `picker teardown`: it deletes the Gateway and frees its class.
    uninstall = ["helm", "uninstall", name, "--namespace", name, "--ignore-not-found"]
    if subprocess.run(uninstall, check=False).returncode:
        # The hook's Job cannot run, for example because its image cannot be pulled.
        subprocess.run([*uninstall, "--no-hooks"], check=False)
    # Without the hook, the deleted class waits for an Envoy Gateway that is deleted too. No other release uses it.
    cluster.remove_class_finalizers(name)
    cluster.delete_namespace(name)
    cluster.delete_cluster_scoped(
        webhook=f"envoy-gateway-topology-injector.{name}", cluster_role=f"{name}-gateway-helm-certgen:{name}"
    )
    _wait_for(lambda: not cluster.has_namespace(name), f"namespace {name} is not deleted", _DELETION_TIMEOUT_S)


def is_answering(url: str) -> bool:
    """Whether a model server answers at this URL."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _helm(*arguments: str, timeout_s: float = _HELM_TIMEOUT_S) -> str:
    try:
        done = subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise NightlyFailed(f"helm {arguments[0]} took more than {timeout_s:g} s") from None
    if done.returncode:
        raise NightlyFailed(f"helm {arguments[0]}: {done.stdout}{done.stderr}".strip())
    return done.stdout


def _wait_for(query: Callable[[], Found], problem: str, timeout_s: float) -> Found:
    """Polls `query` and returns its first true result. Raises NightlyFailed with `problem` after `timeout_s`."""
    waiting = Retrying(
        stop=stop_after_delay(timeout_s), wait=wait_fixed(_POLL_S), retry=retry_if_result(lambda result: not result)
    )
    try:
        return waiting(query)
    except RetryError:
        raise NightlyFailed(f"{problem} after {timeout_s:g} s") from None
