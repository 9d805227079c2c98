"""Writes the nightly job's ClusterRole: permissions on the rendered objects of a release, and for the job itself.

Kubernetes lets an account grant only permissions that it has. The rules therefore include those of the rendered
Roles."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from nightly.release import install_arguments
from nightly.settings import Comparison, Settings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "inference-gateway"
TARGET = ROOT / "ci" / "nightly" / "manifests" / "access.yaml"
VALUES = ("gpu-a10-values.yaml", "gpu-l20-values.yaml", "kind-values.yaml")

WRITES = ("create", "delete", "get", "list", "patch", "update", "watch")

OWN: Mapping[tuple[str, str], tuple[str, ...]] = {
    # An own namespace for each run, helm's release records in it, and the removal of earlier runs.
    ("", "namespaces"): ("create", "delete", "get", "list"),
    ("", "secrets"): WRITES,
    # Waiting, and reports of what is not ready.
    ("", "pods"): ("create", "delete", "get", "list", "watch"),
    ("", "pods/log"): ("get",),
    ("", "events"): ("create", "list"),
    ("apps", "replicasets"): ("get", "list", "watch"),
    ("apps", "deployments"): WRITES,
    ("batch", "jobs"): WRITES,
    # CRDs come with the chart and stay.
    ("apiextensions.k8s.io", "customresourcedefinitions"): ("create", "get", "list", "watch"),
    # The finalizers of the run's class are removed where the uninstall hook has not done so.
    ("gateway.networking.k8s.io", "gatewayclasses"): WRITES,
    # The CRDs of the Gateway API come with admission policies.
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"): ("create", "get", "list", "watch"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): ("create", "get", "list", "watch"),
}


def rendered() -> Iterable[Mapping[str, Any]]:
    """All objects that a run may install, including hooks and CRDs."""
    for values in VALUES:
        comparison = Comparison("any", "DEFAULT", "")
        settings = Settings((comparison,), chart=str(CHART), values=(str(CHART / "ci" / values),))
        flags = iter(install_arguments(settings))
        kept = [part for flag in flags if flag in ("--set", "--values") for part in (flag, next(flags))]
        command = ["helm", "template", settings.namespace, str(CHART), "--namespace", settings.namespace, *kept]
        monitoring = [f"--api-versions=monitoring.coreos.com/v1/{kind}" for kind in ("PodMonitor", "PrometheusRule")]
        command += ["--kube-version", "1.34.0", *monitoring]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        yield from (document for document in yaml.safe_load_all(text) if document)


def plural(kind: str) -> str:
    name = kind.lower()
    if name.endswith("cy"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


def rules() -> list[dict[str, Any]]:
    verbs: dict[tuple[str, str, tuple[str, ...]], set[str]] = defaultdict(set)
    for (group, resource), allowed in OWN.items():
        verbs[group, resource, ()] |= set(allowed)
    for document in rendered():
        group = document["apiVersion"].rpartition("/")[0]
        verbs[group, plural(document["kind"]), ()] |= set(WRITES)
        for rule in document.get("rules") or [] if document["kind"] in ("Role", "ClusterRole") else []:
            for group in rule.get("apiGroups", []):
                for resource in rule.get("resources", []):
                    verbs[group, resource, tuple(sorted(rule.get("resourceNames", [])))] |= set(rule["verbs"])
    # A permission on all objects of a kind makes the one on named objects redundant.
    for (group, resource, names), allowed in list(verbs.items()):
        if names and allowed <= verbs.get((group, resource, ()), set()):
            del verbs[group, resource, names]
    merged: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, resource, names), allowed in sorted(verbs.items()):
        merged[group, tuple(sorted(allowed)), names].append(resource)
    return [
        {
            "apiGroups": [group],
            "resources": resources,
            **({"resourceNames": list(names)} if names else {}),
            "verbs": list(allowed),
        }
        for (group, allowed, names), resources in merged.items()
    ]


def manifest() -> str:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "inference-gateway-nightly"},
        "rules": rules(),
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "inference-gateway-nightly"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "inference-gateway-nightly",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "nightly", "namespace": "inference-gateway-nightly"}],
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nightly"}}
    head = "# Generated by ci/nightly_access.py (make nightly-access): permissions on a release, and the job's own.\n"
    return head + yaml.safe_dump_all([account, role, binding], sort_keys=False, default_flow_style=None, width=116)


if __name__ == "__main__":
    TARGET.write_text(manifest())
    sys.stdout.write(f"Wrote {TARGET.relative_to(ROOT)}\n")
