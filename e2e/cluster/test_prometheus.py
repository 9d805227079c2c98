"""The tutorial's last part: Prometheus finds all pods by their annotations, and the benchmark runs in its pod."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from clusters import ROOT
from extra_objects import Added, Object, deployment
from releases import CHART, PICKED, PLAIN, Release
from waits import until

PROMETHEUS = "quay.io/prometheus/prometheus:v3.5.0"
MANIFESTS = ROOT / "e2e" / "manifests" / "tutorial"
COMMAND = """python3 /root/vllm/benchmarks/benchmark_serving.py \
    --backend vllm --model /models/DeepSeek-R1-Distill-Qwen-7B --served-model-name /model/qwen --trust-remote-code \
    --dataset-name random --random-prefix-len 10 --random-input-len 1550 --random-output-len 1800 \
    --random-range-ratio 0.2 --num-prompts 3000 --max-concurrency 200 --host $GW_IP --port 8080 \
    --endpoint /v1/completions --save-result"""
GW_IP = [
    "get", "svc", "-n", "envoy-gateway-system", "-l",
    "gateway.envoyproxy.io/owning-gateway-namespace=default,gateway.envoyproxy.io/owning-gateway-name=qwen-inference-gateway",
    "-o", "jsonpath={.items[0].spec.clusterIP}",
]  # fmt: skip
EXPECTED = {"vllm:num_requests_running", "llm_d_epp_ready_endpoints", "envoy_http_downstream_rq_total"}
"""One metric of the model servers, one of the pickers and one of the proxies."""


def documented_configuration() -> str:
    """The scrape configuration from docs/observability.md, with the rules that the chart ships."""
    page = (ROOT / "docs" / "observability.md").read_text()
    (text,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", page, re.DOTALL)
    return f"global: {{evaluation_interval: 1s}}\nrule_files: [/etc/prometheus/rules.yaml]\n{text}"


def prometheus_objects() -> Sequence[Object]:
    of = {"name": "prometheus", "namespace": "default"}
    rules = (CHART / "files" / "alerts" / "inference-gateway.rules.yaml").read_text()
    container = {
        "name": "prometheus",
        "image": PROMETHEUS,
        "args": ["--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/tmp/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/prometheus"}],
    }
    volume = {"name": "configuration", "configMap": {"name": "prometheus"}}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": of},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "prometheus"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "prometheus"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **of}],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": of,
            "data": {"prometheus.yaml": documented_configuration(), "rules.yaml": rules},
        },
        deployment("prometheus", [container], serviceAccountName="prometheus", volumes=[volume]),
    ]


class Prometheus:
    """A Prometheus in the cluster, queried through the API server."""

    def __init__(self, release: Release) -> None:
        self._cluster = release.cluster
        (self._pod,) = release.cluster.pods("app=prometheus")

    def get(self, path: str) -> Any:
        """Returns the data of a response of the HTTP API v1."""
        return json.loads(self._cluster.pod_page(self._pod, 9090, f"/api/v1/{path}"))["data"]

    def names(self) -> set[str]:
        """Names of all metrics."""
        return set(self.get("label/__name__/values"))


@pytest.fixture
def prometheus(release: Release) -> Iterator[Prometheus]:
    with Added(release.cluster, *prometheus_objects()):
        yield Prometheus(release)


def test_prometheus_scrapes_all_pods_with_the_documented_configuration(
    release: Release, prometheus: Prometheus
) -> None:
    """Servers, pickers and proxies are scraped once each, and the recording rules produce series."""
    for port in (PLAIN, PICKED):
        assert release.chat_status(port) == 200

    def missing() -> set[str]:
        return EXPECTED - prometheus.names()

    until(lambda: not missing(), "servers, pickers and proxies are scraped")
    targets = prometheus.get("targets?state=active")["activeTargets"]
    assert {target["health"] for target in targets} <= {"up", "unknown"}, [target["lastError"] for target in targets]
    pods = [target["labels"]["pod"] for target in targets]
    for selector, namespace in (("app=qwen", "default"), ("app.kubernetes.io/name=picker", "default")):
        for pod in release.cluster.pods(selector, namespace):
            assert pods.count(pod) == 1, pod
    until(lambda: "replica:vllm_kv_cache_usage:ratio" in prometheus.names(), "the rules produce series")
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule.get("lastError")] == []


def test_the_tutorials_benchmark_runs_in_its_deployment(release: Release) -> None:
    """The manifest and the command are unchanged, except for the namespace and the number and length of requests."""
    context = release.cluster.kubectl("config", "current-context").strip()
    if not context.startswith("kind-"):
        pytest.skip("only a kind cluster has the image under the tutorial's name")
    address = release.cluster.kubectl(*GW_IP)
    shortened = {"1550": "50", "1800": "20", "3000": "20"}
    words = [shortened.get(word, address if word == "$GW_IP" else word) for word in shlex.split(COMMAND)]
    # The tutorial's pod runs as root, which the namespace of the other tests does not allow.
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "benchmark"}}
    with Added(release.cluster, namespace):
        manifest = (MANIFESTS / "vllm-benchmark.yaml").read_text()
        release.cluster.apply(manifest.replace("namespace: default", "namespace: benchmark"))
        release.cluster.rolled_out("vllm-benchmark", "benchmark")
        printed = release.cluster.kubectl("exec", "-n", "benchmark", "deploy/vllm-benchmark", "--", *words)
    assert "Successful requests:                     20 " in printed
    assert "Mean TTFT (ms):" in printed
