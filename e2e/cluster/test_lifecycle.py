"""Upgrades, the tutorial's own files on a bare installation, and the end."""

import base64
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

from clusters import ROOT
from picker.kubernetes.certificates import issue, new_authority
from releases import NAME, NAMESPACE, PICKED, PLAIN, Release, envoy_service, forwarded
from traffic import Load
from waits import until

TUTORIAL = ROOT / "e2e" / "manifests"


def test_an_upgrade_fails_no_request(release: Release) -> None:
    """With a setting of the picker changed, which rolls it."""
    with Load(release.urls[PICKED]) as load:
        release.install("--set", "picker.settings.log_level=debug")
        release.cluster.rolled_out("inference-gateway-ext-proc")
        until(lambda: load.outcomes["ok"] > 20, "some answers")
    assert load.failures == 0, load.problems


def test_the_link_to_the_picker_can_be_tls(release: Release, tmp_path: Path) -> None:
    """Envoy shows its certificate and is served; a client in plain text, without a certificate, or with one of another
    authority, is not."""
    release.install("--set", "picker.tls.enabled=true")
    release.cluster.rolled_out("inference-gateway-extension", NAMESPACE)
    release.cluster.rolled_out("inference-gateway-ext-proc")
    # As the operators' page says: it translates anew, and Envoy hears of the certificates.
    release.cluster.kubectl("rollout", "restart", "deployment/envoy-gateway", "-n", NAMESPACE)
    release.cluster.rolled_out("envoy-gateway", NAMESPACE)
    until(lambda: [release.answers(PICKED) for _ in range(20)] == [200] * 20, "Envoy asks by TLS", 120)
    secret = release.cluster.get("secret", "inference-gateway-ext-proc-tls")["data"]
    authority = base64.b64decode(secret["ca.crt"]).decode()
    own = new_authority(datetime.now(UTC))
    foreign = issue(own, "stranger", [], datetime.now(UTC))
    (tmp_path / "foreign.pem").write_bytes(foreign.certificate + foreign.key)
    pod = release.cluster.pods("app.kubernetes.io/name=picker")[0]
    with forwarded(release.cluster.kubeconfig, f"pod/{pod}", "default", [9002]) as ports:
        for certificate in (None, tmp_path / "foreign.pem"):
            assert not _is_spoken_to(ports[9002], authority, certificate)
        with socket.create_connection(("127.0.0.1", ports[9002]), timeout=5) as plain:
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert not plain.recv(9).startswith(b"\0\0")
    assert release.answers(PICKED) == 200


def _is_spoken_to(port: int, authority: str, certificate: Path | None) -> bool:
    """Whether the picker says anything to a TLS client with this certificate (and its key), or none."""
    context = ssl.create_default_context(cadata=authority)
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate)
    host = "inference-gateway-ext-proc.default.svc.cluster.local"
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
            context.wrap_socket(connection, server_hostname=host) as secure,
        ):
            # With TLS 1.3 a client hears of its refusal only now.
            secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            return bool(secure.recv(9))
    except (ssl.SSLError, ConnectionError):
        return False


def test_the_tutorials_files_work_as_they_stand(release: Release) -> None:
    """Applied with kubectl, unedited, on an installation that brings the gateway's component and model servers only."""
    release.install("--set", "gateway.enabled=false", "--set", "pool.enabled=false")
    files = [TUTORIAL / "tutorial" / name for name in ("inference-pool.yaml", "inference-gateway.yaml")]
    for file in files:
        release.cluster.kubectl("apply", "-f", str(file))
    try:
        service = envoy_service(release.cluster)["metadata"]["name"]
        with forwarded(release.cluster.kubeconfig, f"service/{service}", NAMESPACE, (PLAIN, PICKED)) as ports:
            urls = {port: f"http://127.0.0.1:{local}" for port, local in ports.items()}
            here = Release(release.cluster, release.values, urls)
            for port in (PLAIN, PICKED):
                here.wait_until_serving(port, 90)
    finally:
        for file in files:
            release.cluster.kubectl("delete", "-f", str(file), "--ignore-not-found")


def test_uninstalling_leaves_nothing(release: Release) -> None:
    """But the definitions, which hold other people's objects, the namespace, and what the hooks of Envoy Gateway's own
    chart made."""
    release.cluster.helm("uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "120s")
    until(lambda: _left(release) == [], "everything is gone", 60, 1)


def _left(release: Release) -> list[str]:
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,pdb,gateways,httproutes"
    names: list[str] = []
    for flags in (("-n", NAMESPACE), ("-n", "default")):
        names += release.cluster.kubectl("get", kinds, *flags, "-o", "name").split()
    for kind in ("clusterroles", "clusterrolebindings", "gatewayclasses"):
        ours = ("-l", f"app.kubernetes.io/instance={NAME}", "-o", "name")
        names += release.cluster.kubectl("get", kind, *ours).split()
    kept = ("service/kubernetes", "serviceaccount/default")
    return [name for name in names if name not in kept and "gateway-helm-certgen" not in name]
