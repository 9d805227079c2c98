"""The cluster to test on: one that kind creates, or an existing one that a kubeconfig names."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pytest_kind.cluster import KindCluster
from waits import until

ROOT = Path(__file__).parents[2]
NODE_PORTS = {8080: 30080, 8081: 30081}
"""Port of the Gateway to the node's port. Equal to those in the chart's `ci/kind-values.yaml`."""

_ETCD_IN_MEMORY = {"kind": "ClusterConfiguration", "etcd": {"local": {"dataDir": "/tmp/etcd"}}}
"""The node's /tmp is in memory. On a disk, the API server's writes would queue behind the loading of images."""


class CommandFailed(Exception):
    """A command failed or timed out. The message holds its output."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, used through kubectl and helm as an operator would."""

    kubeconfig: Path
    local_ports: Mapping[int, int] | None
    """Port of the Gateway to the mapped port on 127.0.0.1. None where the Gateway has an address of its own."""

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        """Returns the output. Raises CommandFailed."""
        return self._run(["kubectl", *arguments], stdin, timeout_s)

    def helm(self, *arguments: str, timeout_s: float = 300) -> str:
        """Returns the output. Raises CommandFailed."""
        return self._run(["helm", *arguments], None, timeout_s)

    def get(self, *arguments: str) -> dict[str, Any]:
        """Returns the result of `kubectl get ... -o json`. Raises CommandFailed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        return self.get(*arguments)["items"]

    def apply(self, objects: str | Sequence[Mapping[str, Any]]) -> None:
        """Applies YAML text, or objects. Raises CommandFailed."""
        text = objects if isinstance(objects, str) else yaml.safe_dump_all(objects)
        self.kubectl("apply", "-f", "-", stdin=text)

    def rolled_out(self, deployment: str, namespace: str = "default", timeout_s: int = 240) -> None:
        self.kubectl(
            "rollout", "status", f"deployment/{deployment}", "-n", namespace, f"--timeout={timeout_s}s",
            timeout_s=timeout_s + 10,
        )  # fmt: skip

    def pods(self, selector: str, namespace: str = "default") -> list[str]:
        """Names of the running pods that are not being deleted."""
        return [
            pod["metadata"]["name"]
            for pod in self.items("pods", "-n", namespace, "-l", selector)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"
        ]

    def wait_for_pods(self, count: int, selector: str, namespace: str = "default") -> None:
        """Waits until there are `count` pods. Pods being deleted count too: they serve until they are gone."""
        until(
            lambda: len(self.items("pods", "-n", namespace, "-l", selector)) == count,
            f"{count} pods with {selector} are there",
        )

    def pod_page(self, pod: str, port: int, path: str, namespace: str = "default") -> str:
        """Returns a pod's response to GET, through the API server."""
        return self.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}")

    def is_ready(self) -> bool:
        """Whether the API server reports that it is ready."""
        return _is_ready(self.kubeconfig)

    def _run(self, command: list[str], stdin: str | None, timeout_s: float) -> str:
        tool, *arguments = command
        try:
            done = subprocess.run(
                [tool, f"--kubeconfig={self.kubeconfig}", *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                check=True,
                timeout=timeout_s,
            )
        except subprocess.CalledProcessError as error:
            raise CommandFailed(f"{' '.join(command)}\n{error.stdout}{error.stderr}") from None
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{' '.join(command)}: not done after {timeout_s:g} s") from None
        return done.stdout


@contextmanager
def kind_cluster(name: str, image: str, ports: Mapping[int, int], folder: Path, keep: bool) -> Iterator[Cluster]:
    """Creates a kind cluster, and deletes it at the end unless `keep` is true.

    `ports` maps the Gateway's ports to ports on 127.0.0.1. An existing cluster of this name is left over from a killed
    run and is deleted first. With `keep` it is reused if its API server is ready. Raises CommandFailed.
    """
    mappings = [
        {"containerPort": NODE_PORTS[port], "hostPort": local, "listenAddress": "127.0.0.1"}
        for port, local in ports.items()
    ]
    config = folder / "kind.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "kind": "Cluster",
                "apiVersion": "kind.x-k8s.io/v1alpha4",
                "nodes": [
                    {
                        "role": "control-plane",
                        "extraPortMappings": mappings,
                        "kubeadmConfigPatches": [yaml.safe_dump(_ETCD_IN_MEMORY)],
                    }
                ],
            }
        )
    )
    # pytest-kind downloads releases from 2022 of tools that it does not find.
    tools = {tool: shutil.which(tool) for tool in ("kind", "kubectl", "helm", "docker")}
    if missing := [tool for tool, path in tools.items() if path is None]:
        raise CommandFailed(f"not on the PATH: {', '.join(missing)}")
    kubeconfig = folder / "kubeconfig"
    kind = KindCluster(name, kubeconfig, image, Path(str(tools["kind"])), Path(str(tools["kubectl"])))
    if not (keep and _is_ready(kubeconfig)):
        kind.delete()
    kind.create(config)
    try:
        yield Cluster(kubeconfig, ports)
    finally:
        if not keep:
            kind.delete()


def _is_ready(kubeconfig: Path) -> bool:
    if not kubeconfig.exists():
        return False
    command = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "--raw", "/readyz", "--request-timeout=10s"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def load_images(name: str, images: Sequence[str]) -> None:
    subprocess.run(["kind", "load", "docker-image", "--name", name, *images], check=True, capture_output=True)


def build_image(package: str, image: str) -> None:
    """Builds the image of a workspace package. Raises CommandFailed."""
    command = [
        "docker", "build", "--network", "host", "--quiet", "-f", "ci/Dockerfile",
        "--target", package, "--build-arg", f"PACKAGE={package}", "-t", image, ".",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
