"""The examples of docs/operations.md for providers outside the cluster, with a stand-in for the provider."""

import base64
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from clusters import ROOT
from extra_objects import Added, Object, deployment, model, model_servers, pool, route, to_pool
from picker.controller.certificates import issue, new_authority
from protocol_parts import image_of
from releases import MODEL, PICKED, Release, envoy_service
from traffic import Load
from waits import until

HOST = "provider.default.svc.cluster.local"
KEY = "Bearer replace-this-key-of-the-provider"


def example(name: str, gateway_service: str = "") -> Sequence[Object]:
    """The example's objects, for the stand-in's host name and authority."""
    text = (ROOT / "docs" / "examples" / f"{name}.yaml").read_text()
    objects: list[dict[str, Any]] = list(
        yaml.safe_load_all(text.replace("api.example.com", HOST).replace("GATEWAY-SERVICE", gateway_service))
    )
    for object_ in objects:
        if object_["kind"] == "BackendTLSPolicy":
            validation = object_["spec"]["validation"]
            del validation["wellKnownCACertificates"]
            validation["caCertificateRefs"] = [{"group": "", "kind": "ConfigMap", "name": "provider-ca"}]
    return objects


@pytest.fixture(scope="module")
def provider(release: Release) -> Iterator[Release]:
    """Runs the stand-in, with the first example applied."""
    image = image_of(release.cluster.items("pods", "-l", "app.kubernetes.io/name=picker")[0], "picker")
    authority = new_authority(datetime.now(UTC))
    pair = issue(authority, "provider", [HOST], datetime.now(UTC))
    metadata = {"name": "provider", "namespace": "default"}
    code = (Path(__file__).parent / "provider_stand_in.py").read_text()
    container = {
        "name": "provider",
        "image": image,
        "command": ["python", "/code/provider_stand_in.py"],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("code", "tls")],
    }
    volumes = [
        {"name": "code", "configMap": {"name": "provider"}},
        {"name": "tls", "secret": {"secretName": "provider-tls"}},
    ]
    files = {"tls.crt": pair.certificate, "tls.key": pair.key}
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"provider_stand_in.py": code}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "provider-ca"},
            "data": {"ca.crt": authority.certificate.decode()},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**metadata, "name": "provider-tls"},
            "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
        },
        deployment("provider", [container], volumes=volumes),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": "provider"}, "ports": [{"port": 443, "targetPort": 8443}]},
        },
    ]
    with Added(release.cluster, *objects, *example("external-provider")):
        yield release


def post(release: Release, path: str, model_name: str = MODEL, **headers: str) -> dict[str, Any]:
    """Sends a chat. Returns the JSON of the response; an empty object if the connection fails or it has none."""
    body = {"model": model_name, "max_completion_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
    try:
        return httpx.post(f"{release.urls[PICKED]}{path}", json=body, headers=headers, timeout=30).json()
    except (httpx.TransportError, ValueError):
        return {}


def test_the_provider_is_sent_the_key_of_the_secret(provider: Release) -> None:
    """By verified TLS, under its own host name and path. The key replaces the client's."""
    expected = {"path": "/v1/chat/completions", "host": HOST, "authorization": KEY}

    def received() -> dict[str, Any]:
        return post(provider, "/external/v1/chat/completions", authorization="Bearer of-the-client")

    until(lambda: received() == expected, "the provider is sent the key")


def test_the_provider_serves_what_the_pool_rejects(provider: Release) -> None:
    """The pool is saturated, so that the picker answers 429 to sheddable requests. Before that, the pool serves."""
    gateway_service = envoy_service(provider.cluster)["metadata"]["name"]
    objects = [
        model_servers("full", 1, "--max-num-seqs=1"),
        pool("full"),
        model("sheddable", "full", "cheap", "Sheddable", {MODEL: 1}),
        model("critical", "full", "dear", "Critical", {MODEL: 1}),
        route("full", to_pool("full")),
        *example("fallback-to-provider", gateway_service),
    ]

    def served_by() -> str:
        answer = post(provider, "/v1/chat/completions", "cheap", host="llm.example.com", **{"x-test": "full"})
        return "provider" if answer.get("authorization") == KEY else str(answer.get("object"))

    with Added(provider.cluster, *objects):
        until(lambda: served_by() == "chat.completion", "the local pool serves")
        with Load(provider.urls[PICKED], clients=12, max_tokens=30, model="dear", headers={"x-test": "full"}) as load:
            until(lambda: served_by() == "provider", "the provider serves a request that the pool rejects")
        assert load.failures == 0, load.problems
