"""Writes the nightly job's ClusterRole: what `helm template` of a night contains, and what the job itself does.

Whoever creates a Role may grant only what it has itself, so the rules of the rendered Roles are among them."""

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
    # A namespace of its own each night, helm's records in it, and what is left of other nights.
    ("", "namespaces"): ("create", "delete", "get", "list"),
    ("", "secrets"): WRITES,
    # Waiting, and why something has not come up.
    ("", "pods"): ("create", "delete", "get", "list", "watch"),
    ("", "pods/log"): ("get",),
    ("", "events"): ("create", "list"),
    ("apps", "replicasets"): ("get", "list", "watch"),
    ("apps", "deployments"): WRITES,
    ("batch", "jobs"): WRITES,
    # Definitions come with the chart and stay.
    ("apiextensions.k8s.io", "customresourcedefinitions"): ("create", "get", "list", "watch"),
    # The finalizers of the run's class are removed where the uninstall hook has not done so.
    ("gateway.networking.k8s.io", "gatewayclasses"): WRITES,
    # A night's policies of admission come with the definitions of the Gateway API.
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"): ("create", "get", "list", "watch"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): ("create", "get", "list", "watch"),
}


def rendered() -> Iterable[Mapping[str, Any]]:
    """All objects that a night may install, hooks and definitions included."""
    for values in VALUES:
        comparison = Comparison("any", "DEFAULT", "")
        settings = Settings((comparison,), chart=str(CHART), values=(str(CHART / "ci" / values),))
        flags = iter(install_arguments(settings))
        kept = [flag for each in flags if each in ("--set", "--values") for flag in (each, next(flags))]
        command = ["helm", "template", settings.namespace, str(CHART), "--namespace", settings.namespace, *kept]
        monitoring = [f"--api-versions=monitoring.coreos.com/v1/{each}" for each in ("PodMonitor", "PrometheusRule")]
        command += ["--kube-version", "1.34.0", *monitoring]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        yield from (each for each in yaml.safe_load_all(text) if each)


def plural(kind: str) -> str:
    name = kind.lower()
    if name.endswith("cy"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


def rules() -> list[dict[str, Any]]:
    verbs: dict[tuple[str, str, tuple[str, ...]], set[str]] = defaultdict(set)
    for (group, resource), allowed in OWN.items():
        verbs[group, resource, ()] |= set(allowed)
    for each in rendered():
        group = each["apiVersion"].rpartition("/")[0]
        verbs[group, plural(each["kind"]), ()] |= set(WRITES)
        for rule in each.get("rules") or [] if each["kind"] in ("Role", "ClusterRole") else []:
            for group in rule.get("apiGroups", []):
                for resource in rule.get("resources", []):
                    verbs[group, resource, tuple(sorted(rule.get("resourceNames", [])))] |= set(rule["verbs"])
    # What may be done to all needs no names.
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
    head = "# Written by ci/nightly_access.py (make nightly-access): what a release contains, and what the job does.\n"
    return head + yaml.safe_dump_all([account, role, binding], sort_keys=False, default_flow_style=None, width=116)


if __name__ == "__main__":
    TARGET.write_text(manifest())
    sys.stdout.write(f"Wrote {TARGET.relative_to(ROOT)}\n")
