"""What a night asks of Kubernetes."""

# The client's objects have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false

import contextlib
from collections.abc import Generator
from typing import Any

from kubernetes import client, config, utils
from kubernetes.client.exceptions import ApiException

_GATEWAY_CLASSES = ("gateway.networking.k8s.io", "v1", "gatewayclasses")
_POOLS = ("inference.networking.x-k8s.io", "v1alpha2", "inferencepools")


class Cluster:
    """The one that this program runs in, or else the kubeconfig's current one."""

    def __init__(self) -> None:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()
        self._core: Any = client.CoreV1Api()
        self._apps: Any = client.AppsV1Api()
        self._roles: Any = client.RbacAuthorizationV1Api()
        self._webhooks: Any = client.AdmissionregistrationV1Api()
        self._objects: Any = client.CustomObjectsApi()

    def has_namespace(self, name: str) -> bool:
        return name in {each.metadata.name for each in self._core.list_namespace().items}

    def delete_namespace(self, name: str) -> None:
        """Returns at once; what is in it takes its time."""
        with _absent_is_fine():
            self._core.delete_namespace(name)

    def create(self, file: str, namespace: str) -> None:
        """The objects of a YAML file, in the namespace where they name none. Raises utils.FailToCreateError."""
        utils.create_from_yaml(client.ApiClient(), file, namespace=namespace)

    def is_ready(self, namespace: str) -> bool:
        """Whether every pod that a Deployment there wants is ready."""
        return all(
            (each.status.ready_replicas or 0) >= each.spec.replicas
            for each in self._apps.list_namespaced_deployment(namespace).items
        )

    def delete_outside(self, webhook: str, cluster_role: str) -> None:
        """A mutating webhook's configuration, and a ClusterRole with the binding of the same name."""
        with _absent_is_fine():
            self._webhooks.delete_mutating_webhook_configuration(webhook)
        with _absent_is_fine():
            self._roles.delete_cluster_role_binding(cluster_role)
        with _absent_is_fine():
            self._roles.delete_cluster_role(cluster_role)

    def remove_class_finalizers(self, gateway_class: str) -> None:
        """Lets a deleted GatewayClass go. Does nothing if there is none."""
        group, version, plural = _GATEWAY_CLASSES
        with _absent_is_fine():
            self._objects.patch_cluster_custom_object(
                group, version, plural, gateway_class, {"metadata": {"finalizers": None}}
            )

    def annotate_pool(self, namespace: str, name: str, key: str, value: str) -> None:
        group, version, plural = _POOLS
        body = {"metadata": {"annotations": {key: value}}}
        self._objects.patch_namespaced_custom_object(group, version, namespace, plural, name, body)

    def gateway_address(self, namespace: str, gateway: str) -> str | None:
        """The cluster IP of the Service that Envoy Gateway has made for a Gateway; None as long as there is none."""
        labels = (
            f"gateway.envoyproxy.io/owning-gateway-name={gateway},"
            f"gateway.envoyproxy.io/owning-gateway-namespace={namespace}"
        )
        found = self._core.list_namespaced_service(namespace, label_selector=labels).items
        return str(found[0].spec.cluster_ip) if found else None

    def running_pods(self, namespace: str, selector: str) -> dict[str, str]:
        """IPs by name, in the order of the names."""
        pods = self._core.list_namespaced_pod(namespace, label_selector=selector).items
        running = [pod for pod in pods if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None]
        return {pod.metadata.name: pod.status.pod_ip for pod in sorted(running, key=lambda pod: pod.metadata.name)}

    def log(self, namespace: str, pod: str) -> str:
        """Of a pod's container; nothing where there is no such pod."""
        with _absent_is_fine():
            return str(self._core.read_namespaced_pod_log(pod, namespace))
        return ""

    def state(self, namespace: str) -> str:
        """Pods that are not ready, and the newest warnings: why an installation has not become ready."""
        lines: list[str] = []
        for pod in self._core.list_namespaced_pod(namespace).items:
            for each in pod.status.container_statuses or ():
                waiting = each.state.waiting
                if not each.ready:
                    lines.append(f"{pod.metadata.name}: {pod.status.phase} {waiting.reason if waiting else ''}".strip())
            if not pod.status.container_statuses:
                lines.append(f"{pod.metadata.name}: {pod.status.phase}")
        events = self._core.list_namespaced_event(namespace, field_selector="type=Warning").items
        lines += [f"{each.involved_object.name}: {each.message}" for each in events[-10:]]
        return "\n".join(lines)


@contextlib.contextmanager
def _absent_is_fine() -> Generator[None]:
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise
