"""Upgrades, the tutorial's own files on a bare installation, and the end."""

from clusters import ROOT
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
