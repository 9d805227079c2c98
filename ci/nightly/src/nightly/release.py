"""The release that a night installs, in a namespace that is deleted with all that is in it."""

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
_HELM_TIMEOUT_S = 600
_GONE_TIMEOUT_S = 600
_ANSWER_TIMEOUT_S = 300

Say = Callable[[str], None]
Found = TypeVar("Found")


class NightFailed(Exception):
    """Something that a night needs did not come about; the message is for people."""


@dataclass(frozen=True, slots=True)
class Release:
    """An installed release that answers."""

    settings: Settings
    cluster: Cluster

    def test(self) -> None:
        """`helm test`: one chat through each port. Raises NightFailed, with what it printed."""
        name = self.settings.namespace
        try:
            _helm("test", name, "--namespace", name, "--hide-notes")
        except NightFailed as error:
            raise NightFailed(f"{error}\n{self.cluster.log(name, f'{name}-test')}") from None

    def set_strategy(self, strategy: str) -> None:
        """From now on, without a restart."""
        self.cluster.annotate_pool(
            self.settings.namespace, POOL, "inference.networking.x-k8s.io/routing-strategy", strategy
        )

    def urls(self) -> dict[int, str]:
        """Where the Gateway's ports are, inside the cluster, once both answer: helm does not wait for the proxy, which
        Envoy Gateway makes. Raises NightFailed."""
        address = _eventually(
            lambda: self.cluster.gateway_address(self.settings.namespace, GATEWAY),
            f"Envoy Gateway has made no Service for Gateway {GATEWAY}",
            120,
        )
        urls = {port: f"http://{address}:{port}" for port in PORTS}
        for port, url in urls.items():
            _eventually(partial(answers, url), f"port {port} does not answer", _ANSWER_TIMEOUT_S)
        return urls

    def replicas(self) -> dict[str, str]:
        """The servers' metrics pages, by pod."""
        pods = self.cluster.running_pods(self.settings.namespace, SERVERS)
        return {name: f"http://{ip}:8000/metrics" for name, ip in pods.items()}


@contextmanager
def installed(settings: Settings, cluster: Cluster, say: Say) -> Generator[Release]:
    """Install, and wait until every server has loaded the model. On the way out all of it goes, however one leaves.
    Raises NightFailed."""
    name = settings.namespace
    if cluster.has_namespace(name):
        say(f"removing what another night has left in {name}")
        remove(settings, cluster)
    try:
        say(f"installing into {name}, and waiting for the model for up to {settings.ready_timeout_s} s")
        try:
            _helm(*install_arguments(settings), timeout_s=settings.ready_timeout_s + 60)
        except NightFailed as error:
            raise NightFailed(f"{error}\n{cluster.state(name)}") from None
        _add_objects(settings, cluster)
        yield Release(settings, cluster)
    finally:
        say(f"removing {name}")
        remove(settings, cluster)


def _add_objects(settings: Settings, cluster: Cluster) -> None:
    """Raises NightFailed when they cannot be made or do not become ready."""
    name = settings.namespace
    for file in settings.objects:
        try:
            cluster.create(file, name)
        except (FailToCreateError, OSError) as error:
            raise NightFailed(f"{file}: {error}") from None
    if settings.objects:
        try:
            _eventually(lambda: cluster.is_ready(name), "servers are not ready", settings.ready_timeout_s)
        except NightFailed as error:
            raise NightFailed(f"{error}\n{cluster.state(name)}") from None


def install_arguments(settings: Settings) -> Sequence[str]:
    """Of helm. The release has a GatewayClass and a controller of its own, so that another Envoy Gateway in the cluster
    and this one leave each other's Gateways alone."""
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
    """The release, its namespace, and what the hooks of Envoy Gateway's chart have made outside it. Definitions stay:
    others may use them. Raises NightFailed when the namespace does not go."""
    name = settings.namespace
    # The chart's pre-delete hook runs `picker teardown`: it deletes the Gateway and frees its class.
    uninstall = ["helm", "uninstall", name, "--namespace", name, "--ignore-not-found"]
    if subprocess.run(uninstall, check=False).returncode:
        # The hook's Job cannot run, for example because its image cannot be pulled.
        subprocess.run([*uninstall, "--no-hooks"], check=False)
    # Without the hook, the deleted class waits for an Envoy Gateway that is deleted too. No other release uses it.
    cluster.remove_class_finalizers(name)
    cluster.delete_namespace(name)
    cluster.delete_outside(
        webhook=f"envoy-gateway-topology-injector.{name}", cluster_role=f"{name}-gateway-helm-certgen:{name}"
    )
    _eventually(lambda: not cluster.has_namespace(name), f"namespace {name} does not go", _GONE_TIMEOUT_S)


def answers(url: str) -> bool:
    """Whether a model server is behind it."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _helm(*arguments: str, timeout_s: float = _HELM_TIMEOUT_S) -> str:
    try:
        done = subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise NightFailed(f"helm {arguments[0]} took more than {timeout_s:g} s") from None
    if done.returncode:
        raise NightFailed(f"helm {arguments[0]}: {done.stdout}{done.stderr}".strip())
    return done.stdout


def _eventually(look: Callable[[], Found], problem: str, timeout_s: float) -> Found:
    """What `look` returns, once that is something. Raises NightFailed."""
    waiting = Retrying(
        stop=stop_after_delay(timeout_s), wait=wait_fixed(_POLL_S), retry=retry_if_result(lambda it: not it)
    )
    try:
        return waiting(look)
    except RetryError:
        raise NightFailed(f"{problem} after {timeout_s:g} s") from None
