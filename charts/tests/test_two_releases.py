"""Two releases in one cluster of which both would control one Gateway.

Skipped without helm or the archive of Envoy Gateway's chart."""

import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from test_chart import CHART, RenderFailed, helm, pytestmark, rendered

__all__ = ["pytestmark"]

GROUP, ADMISSION = "gateway.networking.k8s.io", "admissionregistration.k8s.io"
CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"


def gateway_class(release: str, controller: str = CONTROLLER, part_of: str = "inference-gateway") -> dict[str, Any]:
    """A GatewayClass of `release`, NAMESPACE/NAME."""
    namespace, _, name = release.partition("/")
    annotations = {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "a", "labels": {"app.kubernetes.io/part-of": part_of}, "annotations": annotations},
        "spec": {"controllerName": controller},
    }


def resource_list(group: str, **plurals: str) -> dict[str, Any]:
    """The kinds that the API server has in version 1 of a group, with their plurals."""
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["get", "list"]}
        for kind, plural in plurals.items()
    ]
    return {"kind": "APIResourceList", "groupVersion": f"{group}/v1", "resources": resources}


@contextmanager
def api_server(*classes: Mapping[str, Any]) -> Iterator[str]:
    """An API server that has these GatewayClasses. Yields its address."""
    answers: Mapping[str, Any] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
        "/apis": {"kind": "APIGroupList", "groups": []},
        f"/apis/{GROUP}/v1": resource_list(GROUP, GatewayClass="gatewayclasses"),
        # Envoy Gateway's chart looks for these.
        f"/apis/{ADMISSION}/v1": resource_list(
            ADMISSION,
            ValidatingAdmissionPolicy="validatingadmissionpolicies",
            ValidatingAdmissionPolicyBinding="validatingadmissionpolicybindings",
        ),
        f"/apis/{GROUP}/v1/gatewayclasses": {
            "kind": "GatewayClassList",
            "apiVersion": f"{GROUP}/v1",
            "metadata": {"resourceVersion": "1"},
            "items": list(classes),
        },
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            body = json.dumps(found if found is not None else {"kind": "Status", "code": 404}).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def problem(*classes: Mapping[str, Any], settings: str = "picker.replicas=2") -> str:
    """The error of an installation as envoy-gateway-system/inference-gateway; empty without one."""
    with api_server(*classes) as address:
        command = ["helm", "template", "inference-gateway", str(CHART), "--namespace", "envoy-gateway-system"]
        # `helm template` has no capabilities of a cluster, unlike `helm install`.
        capabilities = ["--kube-version=1.34.0", f"--api-versions={GROUP}/v1/GatewayClass"]
        flags = ["--dry-run=server", "--kube-apiserver", address, *capabilities, "--set", settings]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def test_a_second_release_with_the_same_controller_is_rejected() -> None:
    message = problem(gateway_class("default/other"))
    assert "GatewayClass a of release default/other has the controller" in message
    assert "set gateway.controllerName and gateway-helm.config.envoyGateway.gateway.controllerName" in message


@pytest.mark.parametrize(
    "other",
    [
        gateway_class("default/other", controller="example.com/other"),
        gateway_class("envoy-gateway-system/inference-gateway"),
        gateway_class("default/other", part_of="something-else"),
        {**gateway_class("a/b"), "metadata": {"name": "bare"}},
    ],
    ids=["another controller", "the release itself", "of another chart", "of no release"],
)
def test_other_classes_are_accepted(other: Mapping[str, Any]) -> None:
    assert problem(other) == ""


def test_a_release_that_uses_an_existing_envoy_gateway_is_accepted() -> None:
    settings = "gateway-helm.enabled=false,extension.envoyGatewayNamespace=shared"
    assert problem(gateway_class("default/other"), settings=settings) == ""


def test_a_release_with_a_controller_of_its_own_is_accepted() -> None:
    own = "gateway.controllerName=a.b/c,gateway-helm.config.envoyGateway.gateway.controllerName=a.b/c"
    assert problem(gateway_class("default/other"), settings=own) == ""


def test_envoy_gateway_and_the_class_have_the_same_controller() -> None:
    """Otherwise no Envoy Gateway would serve the Gateway."""
    with pytest.raises(RenderFailed, match="set both to the same name"):
        rendered("--set", "gateway.controllerName=a.b/c")


def test_two_releases_with_values_of_their_own_share_no_object() -> None:
    """With the values of docs/operations.md. Envoy Gateway's chart renders its policies only in the first one."""
    shared = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    own = (
        "workload.namespace=second,gateway.className=second,gateway.controllerName=example.com/second,"
        "gateway-helm.config.envoyGateway.gateway.controllerName=example.com/second"
    )

    def names(namespace: str, *settings: str) -> set[tuple[str, str, str]]:
        text = helm("template", namespace, str(CHART), "--namespace", namespace, *settings)
        objects = [manifest for manifest in yaml.safe_load_all(text) if manifest]
        return {
            (manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])
            for manifest in objects
            if manifest["kind"] not in shared
        }

    assert not names("first") & names("second", "--set", own)
