"""Upgrades, certificates, the tutorial's files on an installation without a Gateway, and uninstallation."""

import base64
import json
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
from clusters import ROOT, CommandFailed
from extra_objects import PICKER, V1, V1ALPHA2, Added, Object
from picker.controller.certificates import issue, new_authority
from releases import NAME, NAMESPACE, OF_ENVOY, PICKED, PLAIN, Release, envoy_service, forwarded
from traffic import Load
from waits import until

TUTORIAL = ROOT / "e2e" / "manifests"
CLASS = "qwen-inference-gateway-class"


def test_an_upgrade_fails_no_request(release: Release) -> None:
    """The upgrade enables every feature of the picker, which rolls its Deployment."""
    cluster = release.cluster
    features = (
        "picker.settings.log_level=debug",
        "picker.accessLog.enabled=true",
        "picker.flowControl.enabled=true",
        "picker.traces.endpoint=http://127.0.0.1:4318/v1/traces",
        "picker.autoscaling.enabled=true",
    )
    with Load(release.urls[PICKED]) as load:
        release.install("--set", ",".join(features))
        cluster.rolled_out(PICKER)
        load.wait_for_answers(20)
    assert load.failures == 0, load.problems
    pods = cluster.pods("app.kubernetes.io/name=picker")
    until(lambda: any(_access_log(cluster.kubectl("logs", pod)) for pod in pods), "a picker has logged a request")
    kinds = "hpa,networkpolicies"
    created = {
        namespace: set(cluster.kubectl("get", kinds, "-n", namespace, "-o", "name").split())
        for namespace in ("default", NAMESPACE)
    }
    assert created["default"] >= {
        f"horizontalpodautoscaler.autoscaling/{PICKER}", f"networkpolicy.networking.k8s.io/{PICKER}",
    }  # fmt: skip
    assert "networkpolicy.networking.k8s.io/inference-gateway-extension" in created[NAMESPACE]


def _access_log(log: str) -> list[str]:
    return [line for line in log.splitlines() if '"decision_s"' in line]


def test_switching_tls_to_the_pickers_fails_no_request(release: Release) -> None:
    """TLS is disabled and enabled again under load."""
    release.install()
    release.cluster.rolled_out(PICKER)
    with Load(release.urls[PICKED]) as load:
        for enabled in ("false", "true"):
            release.install("--set", f"picker.tls.enabled={enabled}")
            release.cluster.rolled_out(PICKER)
            load.wait_for_answers(40)
    assert load.failures == 0, load.problems


def test_a_new_certificate_authority_fails_no_request(release: Release) -> None:
    """Old and new authority are both trusted during the change. Envoy receives the new one without another change."""
    cluster = release.cluster
    remove_key = ("--type=merge", '-p={"data": {"ca.key": null}}')
    with Load(release.urls[PICKED]) as load:
        cluster.kubectl("patch", "secret", f"{PICKER}-envoy-tls", "-n", NAMESPACE, *remove_key)
        cluster.kubectl("rollout", "restart", "deployment/inference-gateway-extension", "-n", NAMESPACE)
        cluster.rolled_out("inference-gateway-extension", NAMESPACE)
        until(lambda: _trusted(release, PICKER, "default") == 2, "the picker trusts both")
        until(lambda: _trusted_by_envoy(release) == 2, "Envoy trusts both")
        load.wait_for_answers(40)
    assert load.failures == 0, load.problems


def _trusted(release: Release, name: str, namespace: str) -> int:
    """Number of trusted authorities in the Secret `NAME-tls`."""
    secret = release.cluster.get("secret", f"{name}-tls", "-n", namespace)["data"]
    return base64.b64decode(secret["ca.crt"]).count(b"BEGIN")


def _trusted_by_envoy(release: Release) -> int:
    """Number of trusted authorities in Envoy's configuration of the picker's cluster."""
    [pod] = release.cluster.pods(OF_ENVOY[-1], NAMESPACE)
    with forwarded(release.cluster.kubeconfig, f"pod/{pod}", NAMESPACE, [19000]) as ports:
        dump = httpx.get(f"http://127.0.0.1:{ports[19000]}/config_dump?resource=dynamic_active_clusters", timeout=10)
    for config in dump.json()["configs"]:
        if config["cluster"]["name"].startswith("inferencepicker/"):
            [match] = config["cluster"]["transport_socket_matches"]
            context = match["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
            return base64.b64decode(context["trusted_ca"]["inline_bytes"]).count(b"BEGIN")
    return 0


def test_the_extension_rejects_clients_without_a_certificate(release: Release) -> None:
    """Plaintext and TLS without a client certificate are rejected, without the help of a network policy."""
    pod = release.cluster.pods("app.kubernetes.io/name=extension", NAMESPACE)[0]
    secret = release.cluster.get("secret", f"{PICKER}-envoy-tls", "-n", NAMESPACE)["data"]
    trusting = grpc.ssl_channel_credentials(base64.b64decode(secret["ca.crt"]))
    name = (("grpc.ssl_target_name_override", "inference-gateway-extension"),)
    for credentials in (None, trusting):
        with forwarded(release.cluster.kubeconfig, f"pod/{pod}", NAMESPACE, [5005]) as ports:
            target = f"127.0.0.1:{ports[5005]}"
            channel = grpc.secure_channel(target, credentials, name) if credentials else grpc.insecure_channel(target)
            call = channel.unary_unary("/envoygateway.extension.EnvoyGatewayExtension/PostTranslateModify")
            with pytest.raises(grpc.RpcError):
                call(b"", timeout=10)
            channel.close()


def test_the_picker_serves_only_clients_with_envoys_certificate(release: Release, tmp_path: Path) -> None:
    """It rejects plaintext, a missing certificate, and a certificate of another authority."""
    secret = release.cluster.get("secret", f"{PICKER}-envoy-tls", "-n", NAMESPACE)["data"]
    authority, certificate, key = (base64.b64decode(secret[name]) for name in ("ca.crt", "tls.crt", "tls.key"))
    foreign = issue(new_authority(datetime.now(UTC)), "stranger", [], datetime.now(UTC))
    pairs = {"own": certificate + key, "foreign": foreign.certificate + foreign.key, "none": b""}
    accepted: dict[str, bool] = {}
    for name, pair in pairs.items():
        (tmp_path / name).write_bytes(pair)
        context = ssl.create_default_context(cadata=authority.decode())
        context.set_alpn_protocols(["h2"])
        if pair:
            context.load_cert_chain(tmp_path / name)
        accepted[name] = _is_accepted(release, context)
    accepted["plaintext"] = _is_accepted(release, None)
    assert accepted == {"own": True, "foreign": False, "none": False, "plaintext": False}
    assert release.chat_status(PICKED) == 200


def _is_accepted(release: Release, context: ssl.SSLContext | None) -> bool:
    """Whether the picker sends a client its HTTP/2 server preface. `context`: TLS; None is plaintext."""
    pod = release.cluster.pods("app.kubernetes.io/name=picker")[0]
    host = f"{PICKER}.default.svc.cluster.local"
    with (
        forwarded(release.cluster.kubeconfig, f"pod/{pod}", "default", [9002]) as ports,
        socket.create_connection(("127.0.0.1", ports[9002]), timeout=30) as connection,
    ):
        try:
            stream = connection if context is None else context.wrap_socket(connection, server_hostname=host)
            # With TLS 1.3 a client receives the rejection only after its handshake.
            stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            # The first frame of a server is short: its length begins with two zero bytes. A TLS alert does not.
            return stream.recv(9).startswith(b"\0\0")
        except (ssl.SSLError, ConnectionError):
            return False


def test_the_tutorials_files_work_unedited(release: Release) -> None:
    """They are applied with kubectl to an installation without Gateway and pool."""
    cluster = release.cluster
    release.install("--set", "gateway.enabled=false", "--set", "pool.enabled=false")
    # The files' objects have the same names: an object that is applied while it is being deleted is deleted, too.
    selects_class = f"--field-selector=metadata.name={CLASS}"
    until(lambda: not cluster.items("gatewayclasses", selects_class), "the release's GatewayClass is deleted")
    until(lambda: not cluster.items("services,pods", *OF_ENVOY), "the release's Envoy is deleted")
    files = [TUTORIAL / "tutorial" / name for name in ("inference-pool.yaml", "inference-gateway.yaml")]
    for file in files:
        cluster.kubectl("apply", "-f", str(file))
    try:
        service = envoy_service(cluster)["metadata"]["name"]
        # Envoy's Deployment has the name of its Service.
        until(lambda: cluster.items("deployments", *OF_ENVOY), "Envoy has a Deployment")
        cluster.rolled_out(service, NAMESPACE)
        with forwarded(cluster.kubeconfig, f"service/{service}", NAMESPACE, (PLAIN, PICKED)) as ports:
            urls = {port: f"http://127.0.0.1:{local}" for port, local in ports.items()}
            here = Release(cluster, release.values, urls)
            for port in (PLAIN, PICKED):
                here.wait_until_serving(port)
    finally:
        for file in files:
            cluster.kubectl("delete", "-f", str(file), "--ignore-not-found")


def test_uninstall_fails_while_other_gateways_use_the_class(release: Release) -> None:
    """The error names a Gateway of the class that is not the release's, and nothing is removed.

    The release can then be kept, as docs/operations.md describes.
    """
    cluster = release.cluster
    release.install()
    release.wait_until_serving(PICKED)
    other: Object = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "of-others", "namespace": "default"},
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{"name": "http", "protocol": "HTTP", "port": 8090}],
        },
    }
    with Added(cluster, other):
        with pytest.raises(CommandFailed, match=f"{NAME}-uninstall failed"):
            cluster.helm("uninstall", NAME, "--namespace", NAMESPACE)
        log = cluster.kubectl("logs", f"job/{NAME}-uninstall", "-n", NAMESPACE)
        assert f"GatewayClass {CLASS} is used by other Gateways" in log
        assert "default/of-others" in log
        assert release.chat_status(PICKED) == 200
    *_, newest = json.loads(cluster.helm("history", NAME, "--namespace", NAMESPACE, "--output", "json"))
    cluster.helm("rollback", NAME, str(newest["revision"]), "--namespace", NAMESPACE)
    release.install()


def test_uninstall_removes_everything(release: Release) -> None:
    """Uninstalls while the Gateway serves.

    What stays: the CRDs, which hold other users' objects, the namespace, and objects of the hooks of Envoy Gateway's
    own chart.
    """
    cluster = release.cluster
    release.install()
    release.wait_until_serving(PICKED)
    until(lambda: _gateways(release) == ["qwen-inference-gateway"], "the other Gateway is deleted")
    # Without Envoy Gateway the hook deletes the proxy itself. Its role permits that by this name only.
    assert envoy_service(cluster)["metadata"]["name"] in cluster.helm("get", "hooks", NAME, "--namespace", NAMESPACE)
    cluster.helm("uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "240s")
    until(lambda: _left(release) == [], "everything is deleted", 180, 1)


def _gateways(release: Release) -> list[str]:
    return [gateway["metadata"]["name"] for gateway in release.cluster.items("gateways", "-A")]


def _left(release: Release) -> list[str]:
    """Names of the release's objects that still exist."""
    kinds = (
        "deployments,jobs,services,serviceaccounts,roles,rolebindings,networkpolicies,hpa,pdb,gateways,httproutes,"
        f"inferencepools.{V1},inferencepools.{V1ALPHA2},inferencemodels"
    )
    names: list[str] = []
    quietly = ("--ignore-not-found", "-o", "name")
    for flags in (("-n", NAMESPACE), ("-n", "default")):
        names += release.cluster.kubectl("get", kinds, *flags, "-o", "name").split()
    for kind in ("clusterroles", "clusterrolebindings", "gatewayclasses"):
        ours = ("-l", f"app.kubernetes.io/instance={NAME}", "-o", "name")
        names += release.cluster.kubectl("get", kind, *ours).split()
    names += release.cluster.kubectl("get", "lease/inference-gateway-status", "-n", NAMESPACE, *quietly).split()
    kept = ("service/kubernetes", "serviceaccount/default")
    return [name for name in names if name not in kept and "gateway-helm-certgen" not in name]
