"""Upgrades, the tutorial's own files on a bare installation, and the end."""

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
    """With all that the picker has to offer switched on, which rolls it."""
    cluster = release.cluster
    switched_on = (
        "picker.settings.log_level=debug",
        "picker.accessLog.enabled=true",
        "picker.flowControl.enabled=true",
        "picker.traces.endpoint=http://127.0.0.1:4318/v1/traces",
        "picker.autoscaling.enabled=true",
    )
    with Load(release.urls[PICKED]) as load:
        release.install("--set", ",".join(switched_on))
        cluster.rolled_out(PICKER)
        load.wait_for_answers(20)
    assert load.failures == 0, load.problems
    pods = cluster.pods("app.kubernetes.io/name=picker")
    until(
        lambda: any(_lines_of_requests(cluster.kubectl("logs", pod)) for pod in pods), "a picker has logged a request"
    )
    kinds = "hpa,networkpolicies"
    told = {
        namespace: set(cluster.kubectl("get", kinds, "-n", namespace, "-o", "name").split())
        for namespace in ("default", NAMESPACE)
    }
    assert told["default"] >= {
        f"horizontalpodautoscaler.autoscaling/{PICKER}", f"networkpolicy.networking.k8s.io/{PICKER}",
    }  # fmt: skip
    assert "networkpolicy.networking.k8s.io/inference-gateway-extension" in told[NAMESPACE]


def _lines_of_requests(log: str) -> list[str]:
    return [line for line in log.splitlines() if '"decision_s"' in line]


def test_tls_to_the_pickers_is_switched_under_traffic(release: Release) -> None:
    """Off and on again; no request fails, and nothing else is restarted."""
    release.install()
    release.cluster.rolled_out(PICKER)
    with Load(release.urls[PICKED]) as load:
        for enabled in ("false", "true"):
            release.install("--set", f"picker.tls.enabled={enabled}")
            release.cluster.rolled_out(PICKER)
            load.wait_for_answers(40)
    assert load.failures == 0, load.problems


def test_a_new_authority_takes_over_under_traffic(release: Release) -> None:
    """Both are trusted meanwhile, and Envoy has the new one without a change of anything else."""
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
    secret = release.cluster.get("secret", f"{name}-tls", "-n", namespace)["data"]
    return base64.b64decode(secret["ca.crt"]).count(b"BEGIN")


def _trusted_by_envoy(release: Release) -> int:
    """Authorities in Envoy's own configuration of the picker's cluster."""
    [pod] = release.cluster.pods(OF_ENVOY[-1], NAMESPACE)
    with forwarded(release.cluster.kubeconfig, f"pod/{pod}", NAMESPACE, [19000]) as ports:
        dump = httpx.get(f"http://127.0.0.1:{ports[19000]}/config_dump?resource=dynamic_active_clusters", timeout=10)
    for each in dump.json()["configs"]:
        if each["cluster"]["name"].startswith("inferencepicker/"):
            [match] = each["cluster"]["transport_socket_matches"]
            context = match["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
            return base64.b64decode(context["trusted_ca"]["inline_bytes"]).count(b"BEGIN")
    return 0


def test_a_stranger_gets_nothing_of_the_extension(release: Release) -> None:
    """In plain text or without a certificate, where no network policy keeps it away."""
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


def test_only_who_shows_envoys_certificate_is_served_by_the_picker(release: Release, tmp_path: Path) -> None:
    """A client in plain text, without a certificate, or with one of another authority, is not."""
    secret = release.cluster.get("secret", f"{PICKER}-envoy-tls", "-n", NAMESPACE)["data"]
    authority, certificate, key = (base64.b64decode(secret[name]) for name in ("ca.crt", "tls.crt", "tls.key"))
    stranger = issue(new_authority(datetime.now(UTC)), "stranger", [], datetime.now(UTC))
    pairs = {"own": certificate + key, "foreign": stranger.certificate + stranger.key, "none": b""}
    spoken_to: dict[str, bool] = {}
    for name, pair in pairs.items():
        (tmp_path / name).write_bytes(pair)
        context = ssl.create_default_context(cadata=authority.decode())
        context.set_alpn_protocols(["h2"])
        if pair:
            context.load_cert_chain(tmp_path / name)
        spoken_to[name] = _is_spoken_to(release, context)
    spoken_to["plain text"] = _is_spoken_to(release, None)
    assert spoken_to == {"own": True, "foreign": False, "none": False, "plain text": False}
    assert release.answers(PICKED) == 200


def _is_spoken_to(release: Release, context: ssl.SSLContext | None) -> bool:
    """Whether the picker greets a client by HTTP/2. `context`: for TLS."""
    pod = release.cluster.pods("app.kubernetes.io/name=picker")[0]
    host = f"{PICKER}.default.svc.cluster.local"
    with (
        forwarded(release.cluster.kubeconfig, f"pod/{pod}", "default", [9002]) as ports,
        socket.create_connection(("127.0.0.1", ports[9002]), timeout=30) as connection,
    ):
        try:
            spoken = connection if context is None else context.wrap_socket(connection, server_hostname=host)
            # With TLS 1.3 a client hears of its refusal only now.
            spoken.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            # A server's first frame is short: its length begins so. A TLS alert does not.
            return spoken.recv(9).startswith(b"\0\0")
        except (ssl.SSLError, ConnectionError):
            return False


def test_the_tutorials_files_work_as_they_stand(release: Release) -> None:
    """Applied with kubectl, unedited, on an installation that brings the gateway's component and model servers only."""
    cluster = release.cluster
    release.install("--set", "gateway.enabled=false", "--set", "pool.enabled=false")
    # What the files make has the same names: what is applied to an object on its way out goes with it.
    selects_class = f"--field-selector=metadata.name={CLASS}"
    until(lambda: not cluster.items("gatewayclasses", selects_class), "the release's GatewayClass is gone")
    until(lambda: not cluster.items("services,pods", *OF_ENVOY), "the release's Envoy is gone")
    files = [TUTORIAL / "tutorial" / name for name in ("inference-pool.yaml", "inference-gateway.yaml")]
    for file in files:
        cluster.kubectl("apply", "-f", str(file))
    try:
        service = envoy_service(cluster)["metadata"]["name"]
        # Its Deployment has the Service's name.
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


def test_uninstalling_takes_no_controller_from_gateways_of_others(release: Release) -> None:
    """A Gateway of the release's class that is not the release's: it is told by name, and nothing is removed. And the
    release can be kept, as the operators' page says."""
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
        told = cluster.kubectl("logs", f"job/{NAME}-uninstall", "-n", NAMESPACE)
        assert f"GatewayClass {CLASS} is used by other Gateways" in told
        assert "default/of-others" in told
        assert release.answers(PICKED) == 200
    *_, newest = json.loads(cluster.helm("history", NAME, "--namespace", NAMESPACE, "--output", "json"))
    cluster.helm("rollback", NAME, str(newest["revision"]), "--namespace", NAMESPACE)
    release.install()


def test_uninstalling_leaves_nothing(release: Release) -> None:
    """Though the Gateway is there, and serves. But the definitions stay, which hold other people's objects, the
    namespace, and what the hooks of Envoy Gateway's own chart made."""
    cluster = release.cluster
    release.install()
    release.wait_until_serving(PICKED)
    until(lambda: _gateways(release) == ["qwen-inference-gateway"], "the Gateway of others is gone")
    # Where Envoy Gateway is away the hook deletes the proxy itself, and may do so by this name only.
    assert envoy_service(cluster)["metadata"]["name"] in cluster.helm("get", "hooks", NAME, "--namespace", NAMESPACE)
    cluster.helm("uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "240s")
    until(lambda: _left(release) == [], "everything is gone", 180, 1)


def _gateways(release: Release) -> list[str]:
    return [each["metadata"]["name"] for each in release.cluster.items("gateways", "-A")]


def _left(release: Release) -> list[str]:
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
