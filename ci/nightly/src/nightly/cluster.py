"""The Kubernetes operations of the nightly job."""

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
    """The cluster that this program runs in, or else the current context of the kubeconfig."""

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
        return name in {namespace.metadata.name for namespace in self._core.list_namespace().items}

    def delete_namespace(self, name: str) -> None:
        """Starts the deletion of a namespace and its objects, without waiting for its end."""
        with _ignore_not_found():
            self._core.delete_namespace(name)

    def create(self, file: str, namespace: str) -> None:
        """Creates the objects of a YAML file, in `namespace` if they name none. Raises utils.FailToCreateError,
        OSError."""
        utils.create_from_yaml(client.ApiClient(), file, namespace=namespace)

    def is_ready(self, namespace: str) -> bool:
        """Whether every replica of every Deployment in the namespace is ready."""
        return all(
            (deployment.status.ready_replicas or 0) >= deployment.spec.replicas
            for deployment in self._apps.list_namespaced_deployment(namespace).items
        )

    def delete_cluster_scoped(self, webhook: str, cluster_role: str) -> None:
        """Deletes a MutatingWebhookConfiguration, and a ClusterRole with the ClusterRoleBinding of the same name."""
        with _ignore_not_found():
            self._webhooks.delete_mutating_webhook_configuration(webhook)
        with _ignore_not_found():
            self._roles.delete_cluster_role_binding(cluster_role)
        with _ignore_not_found():
            self._roles.delete_cluster_role(cluster_role)

    def remove_class_finalizers(self, gateway_class: str) -> None:
        """Removes the finalizers of a deleted GatewayClass, if there is one: Envoy Gateway may no longer run."""
        group, version, plural = _GATEWAY_CLASSES
        with _ignore_not_found():
            self._objects.patch_cluster_custom_object(
                group, version, plural, gateway_class, {"metadata": {"finalizers": None}}
            )

    def annotate_pool(self, namespace: str, name: str, key: str, value: str) -> None:
        group, version, plural = _POOLS
        body = {"metadata": {"annotations": {key: value}}}
        self._objects.patch_namespaced_custom_object(group, version, namespace, plural, name, body)

    def gateway_address(self, namespace: str, gateway: str) -> str | None:
        """The cluster IP of the Service that Envoy Gateway creates for a Gateway; None while there is none."""
        labels = (
            f"gateway.envoyproxy.io/owning-gateway-name={gateway},"
            f"gateway.envoyproxy.io/owning-gateway-namespace={namespace}"
        )
        found = self._core.list_namespaced_service(namespace, label_selector=labels).items
        return str(found[0].spec.cluster_ip) if found else None

    def running_pods(self, namespace: str, selector: str) -> dict[str, str]:
        """IP addresses of the running pods by pod name, in the order of the names."""
        pods = self._core.list_namespaced_pod(namespace, label_selector=selector).items
        running = [pod for pod in pods if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None]
        return {pod.metadata.name: pod.status.pod_ip for pod in sorted(running, key=lambda pod: pod.metadata.name)}

    def log(self, namespace: str, pod: str) -> str:
        """The log of a pod's container; empty if there is no such pod."""
        with _ignore_not_found():
            return str(self._core.read_namespaced_pod_log(pod, namespace))
        return ""

    def state(self, namespace: str) -> str:
        """The pods that are not ready, and the last 10 warning events, to explain a failed installation."""
        lines: list[str] = []
        for pod in self._core.list_namespaced_pod(namespace).items:
            for container in pod.status.container_statuses or ():
                waiting = container.state.waiting
                if not container.ready:
                    lines.append(f"{pod.metadata.name}: {pod.status.phase} {waiting.reason if waiting else ''}".strip())
            if not pod.status.container_statuses:
                lines.append(f"{pod.metadata.name}: {pod.status.phase}")
        events = self._core.list_namespaced_event(namespace, field_selector="type=Warning").items
        lines += [f"{event.involved_object.name}: {event.message}" for event in events[-10:]]
        return "\n".join(lines)


@contextlib.contextmanager
def _ignore_not_found() -> Generator[None]:
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise
