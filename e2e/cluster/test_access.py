"""Permissions of the service accounts: what they need, and nothing else."""

from clusters import CommandFailed
from releases import NAMESPACE, Release

OF_ALL_ACCOUNTS = {
    "selfsubjectreviews.authentication.k8s.io",
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
}
INFERENCE = {
    f"{kind}.{group}"
    for kind in ("inferencepools", "inferencemodels", "inferenceobjectives", "inferencemodelrewrites")
    for group in ("inference.networking.k8s.io", "inference.networking.x-k8s.io", "llm-d.ai")
}


def allowed(release: Release, account: str, namespace: str) -> dict[str, set[str]]:
    """Verbs by resource, from `kubectl auth can-i --list`, without those that every account has."""
    listing = release.cluster.kubectl(
        "auth", "can-i", "--list", f"--as=system:serviceaccount:{namespace}:{account}", "-n", namespace
    )
    found: dict[str, set[str]] = {}
    for line in listing.splitlines()[1:]:
        resource, _, rest = line.partition(" ")
        if resource.startswith("[") or not resource or resource in OF_ALL_ACCOUNTS:
            continue
        verbs = rest.rsplit("[", 1)[1].rstrip("]").split()
        found.setdefault(resource, set()).update(verbs)
    return {resource: verbs for resource, verbs in found.items() if resource}


def test_the_picker_reads_pools_and_pods_and_writes_nothing(release: Release) -> None:
    """No secrets, no Services, no statuses."""
    reads = {"get", "list", "watch"}
    assert allowed(release, "inference-gateway-ext-proc", "default") == {
        **dict.fromkeys(INFERENCE, reads),
        "pods": reads,
    }


def test_the_extension_writes_statuses_its_lease_and_events(release: Release) -> None:
    """It also reads the objects that the statuses depend on."""
    may = allowed(release, "inference-gateway-extension", NAMESPACE)
    writes = {resource: verbs - {"get", "list", "watch"} for resource, verbs in may.items()}
    assert {resource: verbs for resource, verbs in writes.items() if verbs} == {
        "events": {"create"},
        "leases.coordination.k8s.io": {"update"},
        # It annotates routes after a renewal of certificates.
        "httproutes.gateway.networking.k8s.io": {"patch"},
        "secrets": {"patch"},
        **{f"{resource}/status": {"patch"} for resource in INFERENCE},
    }
    assert may["secrets"] == {"get", "patch"}


def test_the_extension_reads_the_secrets_of_its_certificates_and_no_other(release: Release) -> None:
    """Access to Secrets is granted by name."""

    def may(verb: str, what: str, namespace: str) -> bool:
        account = f"--as=system:serviceaccount:{NAMESPACE}:inference-gateway-extension"
        try:
            return "yes" in release.cluster.kubectl("auth", "can-i", verb, what, account, "-n", namespace)
        except CommandFailed:
            return False

    assert may("get", "secret/inference-gateway-ext-proc-envoy-tls", NAMESPACE)
    assert may("get", "secret/inference-gateway-ext-proc-tls", "default")
    for verb, what, namespace in (
        ("list", "secrets", NAMESPACE), ("get", "secret/envoy", NAMESPACE), ("get", "secret/any", "default"),
        ("create", "secrets", NAMESPACE), ("get", "secret/inference-gateway-ext-proc-envoy-tls", "default"),
    ):  # fmt: skip
        assert not may(verb, what, namespace), (verb, what, namespace)


def test_our_pods_run_unprivileged_on_a_read_only_root(release: Release) -> None:
    """The pods run as a non-root user and without capabilities."""
    for pod in release.cluster.items("pods", "-A", "-l", "app.kubernetes.io/part-of=inference-gateway"):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for container in pod["spec"]["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
