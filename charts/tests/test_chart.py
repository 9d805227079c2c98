"""Manifests that the chart renders, without a cluster. Skipped without helm or the archive of Envoy Gateway's chart."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from picker.controller.picker_endpoints import SPREAD
from picker.resources.pool_annotations import FIELDS, PREFIX, STRATEGY_ANNOTATION, invalid_settings
from picker.settings import GatewaySettings, ServeSettings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "inference-gateway"
TUTORIAL = ROOT / "e2e" / "manifests" / "tutorial"
SCENARIOS = sorted(path.stem for path in (CHART / "ci").glob("*-values.yaml"))

pytestmark = pytest.mark.skipif(
    shutil.which("helm") is None or not list((CHART / "charts").glob("gateway-helm-*.tgz")),
    reason="needs helm, and `helm dependency build charts/inference-gateway`",
)

Objects = Mapping[tuple[str, str], dict[str, Any]]


class RenderFailed(Exception):
    """Helm failed to render. The message is helm's output."""


@cache
def helm(*arguments: str) -> str:
    done = subprocess.run(["helm", *arguments, "--kube-version", "1.34.0"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderFailed(done.stdout + done.stderr)
    return done.stdout


def rendered(*arguments: str, namespace: str = "envoy-gateway-system") -> Objects:
    """Rendered manifests by kind and name. Raises RenderFailed."""
    text = helm("template", "inference-gateway", str(CHART), "--namespace", namespace, *arguments)
    objects = [document for document in yaml.safe_load_all(text) if document]
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}


def scenario(name: str) -> Objects:
    return rendered("--values", str(CHART / "ci" / f"{name}.yaml"))


def tutorial(*files: str) -> list[dict[str, Any]]:
    return [document for file in files for document in yaml.safe_load_all((TUTORIAL / file).read_text())]


@pytest.mark.parametrize(
    "expected",
    tutorial("inference-gateway.yaml", "inference-pool.yaml", "vllm-benchmark.yaml"),
    ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}",
)
def test_with_all_paths_open_the_objects_are_the_tutorials(expected: dict[str, Any]) -> None:
    """Names and specs are equal. The chart adds labels."""
    found = scenario("tutorial-values")[expected["kind"], expected["metadata"]["name"]]
    assert found["apiVersion"] == expected["apiVersion"]
    assert found["spec"] == expected["spec"]
    if expected["kind"] != "GatewayClass":
        assert found["metadata"]["namespace"] == expected["metadata"].get("namespace", "default")


def test_the_model_servers_service_is_the_one_in_the_tutorials_route() -> None:
    """Service `qwen`, port 8000, label app: qwen."""
    service = rendered()["Service", "qwen"]["spec"]
    assert service["selector"] == {"app": "qwen"}
    assert [port["port"] for port in service["ports"]] == [8000]
    pods = rendered()["Deployment", "qwen"]["spec"]["template"]["metadata"]
    assert pods["labels"]["app"] == "qwen"
    assert pods["annotations"] == {
        "prometheus.io/scrape": "true", "prometheus.io/port": "8000", "prometheus.io/path": "/metrics",
    }  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_passes_lint_and_renders(name: str) -> None:
    """Each values file in ci/ is a supported installation."""
    assert "0 chart(s) failed" in helm("lint", str(CHART), "--values", str(CHART / "ci" / f"{name}.yaml"))
    assert scenario(name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_references_to_accounts_and_roles_resolve(name: str) -> None:
    """Every service account of a Deployment and every role of a binding is rendered."""
    objects = scenario(name)
    for (kind, _), manifest in objects.items():
        if kind == "Deployment" and (account := manifest["spec"]["template"]["spec"].get("serviceAccountName")):
            assert ("ServiceAccount", account) in objects
        if kind in ("RoleBinding", "ClusterRoleBinding"):
            assert (manifest["roleRef"]["kind"], manifest["roleRef"]["name"]) in objects


def test_settings_of_a_pool_are_annotations() -> None:
    """The picker accepts all of them. Whole numbers stay whole."""
    annotations = scenario("kitchen-sink-values")["InferencePool", "chat-pool"]["metadata"]["annotations"]
    assert set(annotations) == set(FIELDS)
    assert annotations[f"{PREFIX}flow-control-max-bytes"] == "16777216"
    assert annotations[STRATEGY_ANNOTATION] == "PREFIX_CACHE"
    assert invalid_settings(annotations) == []
    assert "annotations" not in rendered()["InferencePool", "vllm-qwen-pool"]["metadata"]


def test_the_extensions_address_follows_the_namespace() -> None:
    """Envoy Gateway gets a name without namespace, and resolves it in its own. Envoy gets the full name."""
    for namespace in ("envoy-gateway-system", "elsewhere"):
        objects = rendered(namespace=namespace)
        config = yaml.safe_load(objects["ConfigMap", "envoy-gateway-config"]["data"]["envoy-gateway.yaml"])
        address = config["extensionManager"]["service"]["fqdn"]
        service = objects["Service", address["hostname"]]
        assert service["metadata"]["namespace"] == namespace
        assert address["port"] in [port["port"] for port in service["spec"]["ports"]]
        environment = objects["Deployment", address["hostname"]]["spec"]["template"]["spec"]["containers"][0]["env"]
        target = next(variable["value"] for variable in environment if variable["name"] == "PICKER_EDS_TARGET")
        assert target == f"inference-gateway-endpoints.{namespace}.svc.cluster.local:9004"
        discovery = objects["Service", "inference-gateway-endpoints"]
        assert discovery["metadata"]["namespace"] == namespace
        assert discovery["spec"]["selector"] == service["spec"]["selector"]


def test_the_extensions_service_is_headless() -> None:
    """Until the nodes have a cluster IP's rules, a connection to it can leave the cluster and reach another host."""
    objects = rendered()
    service = objects["Service", "inference-gateway-extension"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    # Behind a cluster IP, proxies reach a new pod at once, without resolving a name again.
    assert "clusterIP" not in objects["Service", "inference-gateway-endpoints"]["spec"]


@pytest.mark.parametrize("setting", ["picker.spread=true", "picker.autoscaling.enabled=true"])
def test_all_pickers_are_used_with_spread_or_autoscaling(setting: str) -> None:
    """An autoscaler adds replicas because the used ones are overloaded."""

    def annotations(objects: Objects) -> dict[str, str]:
        return objects["Service", "inference-gateway-ext-proc"]["metadata"].get("annotations", {})

    assert annotations(rendered()) == {}
    assert annotations(rendered("--set", setting)) == {SPREAD: "true"}


@pytest.mark.parametrize(
    ("settings", "enabled"),
    [
        ("picker.replicas=2", False),
        ("picker.spread=true", True),
        ("picker.autoscaling.enabled=true", True),
        ("picker.peers.enabled=true", True),
        ("picker.spread=true,picker.peers.enabled=false", False),
    ],
)
def test_pickers_that_share_requests_report_to_each_other(settings: str, enabled: bool) -> None:
    objects = rendered("--set", settings)
    name = "inference-gateway-ext-proc"
    container = objects["Deployment", name]["spec"]["template"]["spec"]["containers"][0]
    assert (environment(objects, name).get("PICKER_PEER_ADDRESS") == "[::]:9005") == enabled
    assert ({"name": "peers", "containerPort": 9005} in container["ports"]) == enabled
    assert (("Role", f"{name}-peers") in objects) == (("RoleBinding", f"{name}-peers") in objects) == enabled
    # Reached by no Service: pickers connect to pods.
    assert 9005 not in {port["port"] for port in objects["Service", name]["spec"]["ports"]}


def test_only_pickers_connect_to_the_port_for_peers() -> None:
    """A pod of another namespace may have a picker's labels, and another pod of this namespace may not."""
    objects = rendered("--set", "picker.spread=true,workload.namespace=llm")
    policy = objects["NetworkPolicy", "inference-gateway-ext-proc"]["spec"]
    [rule] = [rule for rule in policy["ingress"] if {"port": 9005} in rule["ports"]]
    assert rule["ports"] == [{"port": 9005}]
    [peer] = rule["from"]
    assert peer["podSelector"] == policy["podSelector"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "llm"}


def environment(objects: Objects, deployment: str) -> dict[str, str]:
    """Variables with a literal value, of a Deployment's first container."""
    container = objects["Deployment", deployment]["spec"]["template"]["spec"]["containers"][0]
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def test_a_given_certificate_is_served_to_clients_without_one() -> None:
    """As other gateways connect: by TLS, without a client certificate, to a port that they know as HTTP/2."""
    objects = scenario("other-gateway-values")
    assert "PICKER_TLS_CLIENT_CA" not in environment(objects, "inference-gateway-ext-proc")
    pod = objects["Deployment", "inference-gateway-ext-proc"]["spec"]["template"]["spec"]
    [volume] = pod["volumes"]
    assert (volume["secret"]["secretName"], len(volume["secret"]["items"])) == ("picker-tls", 2)
    service = objects["Service", "inference-gateway-ext-proc"]["spec"]
    assert service["ports"][0]["appProtocol"] == "http2"


def test_values_are_settings_of_the_picker() -> None:
    """Values are passed under the names of `picker serve --help`. Whole numbers stay whole."""
    variables = environment(scenario("kitchen-sink-values"), "inference-gateway-ext-proc")
    assert {
        "PICKER_ACCESS_LOG": "-",
        "PICKER_TRACES_ENDPOINT": "http://collector.observability:4318/v1/traces",
        "PICKER_TRACES_SAMPLE_RATIO": "0.5",
        "PICKER_KEPT_DECISIONS": "5000",
        "PICKER_FLOW_CONTROL": "true",
        "PICKER_FLOW_CONTROL_TIME_LIMIT_S": "30",
        "PICKER_FLOW_CONTROL_MAX_REQUESTS": "1000",
        "PICKER_FLOW_CONTROL_MAX_BYTES": "16777216",
        "PICKER_MAX_BODY_BYTES": "33554432",
        "PICKER_TRUSTED_HEADERS": '["x-llm-d-inference-fairness-id"]',
        "PICKER_LEGACY_NAMES": "false",
    }.items() <= variables.items()


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_picker_accepts_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown setting would prevent it from starting."""
    objects = scenario(name)
    for deployment, settings in (
        ("inference-gateway-ext-proc", ServeSettings),
        ("inference-gateway-extension", GatewaySettings),
    ):
        if ("Deployment", deployment) not in objects:
            continue
        own = {
            key: value.replace("$(POD_IP)", "10.0.0.1")
            for key, value in environment(objects, deployment).items()
            if key.startswith("PICKER_")
        }
        for key, value in own.items():
            monkeypatch.setenv(key, value)
        if settings is GatewaySettings:
            monkeypatch.setenv("PICKER_NAMESPACE", "system")
        settings.read([], "picker")  # must not raise
        for key in own:
            monkeypatch.delenv(key)


@pytest.mark.parametrize("reads", [True, False])
def test_config_maps_of_adapters_are_read_with_the_right_to_read_them(reads: bool) -> None:
    objects = rendered("--set", f"extension.adapterConfigMaps={str(reads).lower()}")
    of_extension = [
        object_ for (kind, name), object_ in objects.items() if kind == "ClusterRole" and "extension" in name
    ]
    rules = [rule for role in of_extension for rule in role["rules"]]
    assert any("configmaps" in rule["resources"] for rule in rules) == reads
    assert (environment(objects, "inference-gateway-extension").get("PICKER_ADAPTER_CONFIG_MAPS") != "false") == reads


def test_defaults_in_values_yaml_are_those_of_the_settings() -> None:
    """values.yaml shows defaults of features that are disabled. The picker uses its own."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["picker"]
    fields = ServeSettings.model_fields
    flow = values["flowControl"]
    shown = {
        "kept_decisions": values["keptDecisions"],
        "traces_sample_ratio": values["traces"]["sampleRatio"],
        "flow_control": flow["enabled"],
        "flow_control_time_limit_s": flow["timeLimitSeconds"],
        "flow_control_max_requests": flow["maxRequests"],
        "flow_control_max_bytes": flow["maxBytes"],
    }
    assert shown == {name: fields[name].default for name in shown}


@pytest.mark.parametrize("name", SCENARIOS)
def test_policies_admit_the_needed_clients(name: str) -> None:
    """Proxies connect to the picker. Envoy Gateway and proxies connect to the extension."""
    objects = scenario(name)
    peers = [9005] if ("Role", "inference-gateway-ext-proc-peers") in objects else []
    for name, ports in (("inference-gateway-ext-proc", [9002, *peers]), ("inference-gateway-extension", [5005, 9004])):
        if ("Deployment", name) not in objects:
            continue
        policy = objects["NetworkPolicy", name]["spec"]
        pods = objects["Deployment", name]["spec"]["selector"]["matchLabels"]
        assert policy["podSelector"]["matchLabels"] == pods
        assert [port["port"] for rule in policy["ingress"] if "from" in rule for port in rule["ports"]] == ports


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_policy_admits_a_pod_by_its_labels_alone(name: str) -> None:
    """A pod's creator chooses its labels. The API server sets the label with a namespace's name."""
    values = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text()) or {}
    extra = values.get("picker", {}).get("networkPolicy", {}).get("extraClients", [])
    for policy in policies(scenario(name)):
        for rule in policy["spec"]["ingress"]:
            for peer in rule.get("from", []):
                if peer not in extra:
                    assert set(peer["namespaceSelector"]["matchLabels"]) == {"kubernetes.io/metadata.name"}


@pytest.mark.parametrize(
    ("settings", "namespaces"),
    [
        ("picker.replicas=2", {"envoy-gateway-system"}),
        ("extension.proxyNamespaces={default,team}", {"envoy-gateway-system", "default", "team"}),
        ("gateway-helm.enabled=false,extension.envoyGatewayNamespace=shared", {"shared"}),
    ],
)
def test_policies_name_the_namespaces_of_the_proxies(settings: str, namespaces: set[str]) -> None:
    """Envoy Gateway's namespace, and the Gateways' namespaces for its mode GatewayNamespace."""
    for policy in policies(rendered("--set", settings)):
        for rule in policy["spec"]["ingress"]:
            if {9002, 9004} & {port["port"] for port in rule["ports"]}:
                found = {
                    peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]
                }
                assert found == namespaces


def test_with_tls_the_extension_always_has_a_policy() -> None:
    """It holds the authority's key, so its value for the policy is ignored."""
    objects = rendered("--set", "extension.networkPolicy.enabled=false")
    assert ("NetworkPolicy", "inference-gateway-extension") in objects
    off = "extension.networkPolicy.enabled=false,picker.tls.enabled=false"
    assert ("NetworkPolicy", "inference-gateway-extension") not in rendered("--set", off)


def policies(objects: Objects) -> list[dict[str, Any]]:
    """The NetworkPolicies, one for each Deployment that Envoy connects to."""
    found = [manifest for (kind, _), manifest in objects.items() if kind == "NetworkPolicy"]
    servers = ("inference-gateway-ext-proc", "inference-gateway-extension")
    assert len(found) == sum(("Deployment", name) in objects for name in servers)
    return found


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_port_of_the_service_marks_the_pickers_with_tls(enabled: str) -> None:
    """During a rollout of the change both kinds of pods exist. The Secrets always exist."""
    objects = rendered("--set", f"picker.tls.enabled={enabled}")
    container = objects["Deployment", "inference-gateway-ext-proc"]["spec"]["template"]["spec"]["containers"][0]
    names = {port["name"] for port in container["ports"] if port["containerPort"] == 9002}
    service = {port["name"]: port for port in objects["Service", "inference-gateway-ext-proc"]["spec"]["ports"]}
    assert service["ext-proc"]["targetPort"] == 9002
    assert (service["ext-proc-tls"]["targetPort"] in names) == (enabled == "true")
    assert ("Secret", "inference-gateway-ext-proc-envoy-tls") in objects


def test_envoy_gateway_and_the_extension_use_mutual_tls() -> None:
    """The Secrets are part of the release, and Envoy Gateway's pod waits for them."""
    objects = rendered()
    config = yaml.safe_load(objects["ConfigMap", "envoy-gateway-config"]["data"]["envoy-gateway.yaml"])
    tls = config["extensionManager"]["service"]["tls"]
    for reference in tls["certificateRef"], tls["clientCertificateRef"]:
        assert ("Secret", reference["name"]) in objects
    pod = objects["Deployment", "envoy-gateway"]["spec"]["template"]["spec"]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "extension-client-tls"]
    assert volume["secret"]["secretName"] == tls["clientCertificateRef"]["name"]
    assert [item["key"] for item in volume["secret"]["items"]] == ["tls.crt"]
    assert "extension-client-tls" in [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]


@pytest.mark.parametrize("port", ["qwen-backend", "qwen-backend-no-inference"])
def test_a_model_servers_administrative_routes_are_closed(port: str) -> None:
    """On both ports only the listed paths are routes."""
    [rule] = rendered()["HTTPRoute", port]["spec"]["rules"]
    prefixes = [match["path"]["value"] for match in rule["matches"]]
    assert {match["path"]["type"] for match in rule["matches"]} == {"PathPrefix"}
    for path in ("/v1/chat/completions", "/v1/models", "/health", "/v1/messages"):
        assert path in prefixes
    for path in (
        "/metrics", "/v1/load_lora_adapter", "/reset_prefix_cache", "/pause", "/sleep", "/invocations",
        "/abort_requests", "/update_weights", "/scale_elastic_ep", "/tokenize", "/server_info",
    ):  # fmt: skip
        assert not [prefix for prefix in prefixes if path == prefix or path.startswith(f"{prefix}/")]


def test_a_listener_with_a_certificate_has_tls() -> None:
    """A listener without one has the tutorial's protocol."""
    secured = "gateway.listeners.llm.tls.certificateRefs[0].name=chat"
    http, llm = rendered("--set", secured)["Gateway", "qwen-inference-gateway"]["spec"]["listeners"]
    assert (http["protocol"], "tls" in http) == ("HTTP", False)
    assert (llm["protocol"], llm["tls"]["certificateRefs"]) == ("HTTPS", [{"name": "chat"}])


def pods(objects: Objects) -> dict[str, dict[str, Any]]:
    """Specs of all pods, by the names of their controllers."""
    found: dict[str, dict[str, Any]] = {}
    for (kind, name), manifest in objects.items():
        if kind == "Pod":
            found[name] = manifest["spec"]
        elif kind in ("Deployment", "Job", "DaemonSet", "StatefulSet"):
            found[name] = manifest["spec"]["template"]["spec"]
    return found


def unrestricted(pod: Mapping[str, Any]) -> set[str]:
    """Violations of the restricted Pod Security Standard by a pod's spec."""
    whole = pod.get("securityContext", {})
    problems: set[str] = set()
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = {**whole, **container.get("securityContext", {})}
        if own.get("runAsUser") == 0 or not own.get("runAsNonRoot"):
            problems.add("user")
        if own.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            problems.add("seccomp")
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            problems.add("privileges")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            problems.add("capabilities")
    if any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
        problems.add("host")
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    if any(set(volume) - {"name"} - allowed for volume in pod.get("volumes", [])):
        problems.add("volumes")
    return problems


@pytest.mark.parametrize("name", SCENARIOS)
def test_pods_satisfy_the_restricted_profile(name: str) -> None:
    """Exceptions are the images that run as root: vLLM's and the tutorial's benchmark."""
    for pod, spec in pods(scenario(name)).items():
        excused: set[str] = set()
        if spec["containers"][0].get("command", [""])[0] == "vllm":
            # The scenario mounts a volume of the host.
            excused = {"user", "volumes"}
        if pod == "vllm-benchmark" and name == "tutorial-values":
            excused = {"user", "seccomp", "privileges", "capabilities"}
        assert unrestricted(spec) <= excused, pod


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_pod_has_its_own_service_account_or_no_token(name: str) -> None:
    """The namespace's default account may be granted rights."""
    for pod, spec in pods(scenario(name)).items():
        if pod == "vllm-benchmark" and name == "tutorial-values":
            continue
        assert spec.get("serviceAccountName") or spec.get("automountServiceAccountToken") is False, pod


def test_names_of_cluster_scoped_objects_include_the_namespace() -> None:
    """A release of the same name can then be in another namespace. Envoy Gateway's own chart is left out."""
    kinds = ("ClusterRole", "ClusterRoleBinding")
    one, other = (
        {key for key in rendered("--set", "gateway-helm.enabled=false", namespace=namespace) if key[0] in kinds}
        for namespace in ("one", "other")
    )
    assert one
    assert not one & other


def test_replicas_of_null_write_no_number() -> None:
    """`helm upgrade` then keeps the number that an autoscaler or kubectl set."""
    settings = "picker.replicas=null,vllm.replicas=null,extension.replicas=null"
    objects = rendered("--set", settings)
    for name in ("inference-gateway-ext-proc", "inference-gateway-extension", "qwen"):
        assert "replicas" not in objects["Deployment", name]["spec"]
        assert rendered()["Deployment", name]["spec"]["replicas"] == 2


def test_picker_and_extension_have_the_same_maximum_body_size() -> None:
    """The extension configures the limit at which Envoy responds with 413."""
    objects = rendered("--set", "picker.settings.max_body_bytes=33554432")
    for name in ("inference-gateway-ext-proc", "inference-gateway-extension"):
        assert environment(objects, name)["PICKER_MAX_BODY_BYTES"] == "33554432"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_container_has_each_variable_once(name: str) -> None:
    """Of two entries with one name Kubernetes silently uses the last."""
    for pod, spec in pods(scenario(name)).items():
        for container in spec["containers"]:
            names = [variable["name"] for variable in container.get("env", [])]
            assert len(names) == len(set(names)), pod


@pytest.mark.parametrize("deployment", ["inference-gateway-ext-proc", "inference-gateway-extension"])
def test_only_metrics_and_health_listen_on_the_pods_address(deployment: str) -> None:
    """The other admin pages listen on loopback, which is the default."""
    variables = environment(rendered(), deployment)
    assert variables["PICKER_METRICS_ADDRESS"] == "$(POD_IP):9090"
    assert "PICKER_ADMIN_ADDRESS" not in variables
    assert ServeSettings.model_fields["admin_address"].default.startswith("127.0.0.1:")
    container = rendered()["Deployment", deployment]["spec"]["template"]["spec"]["containers"][0]
    names = [variable["name"] for variable in container["env"]]
    assert names.index("POD_IP") < names.index("PICKER_METRICS_ADDRESS")


def test_model_servers_are_evicted_one_by_one() -> None:
    """This is the default, because a model takes minutes to load."""
    budget = rendered()["PodDisruptionBudget", "qwen"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == {"app": "qwen"}


def test_an_image_uses_the_releases_registry_and_its_digest() -> None:
    """The registry overrides the image's, and the digest overrides the tag."""
    objects = scenario("kitchen-sink-values")
    images = {
        name: manifest["spec"]["template"]["spec"]["containers"][0]["image"]
        for (kind, name), manifest in objects.items()
        if kind == "Deployment"
    }
    assert all(image.startswith("registry.example.com/") for image in images.values()), images
    assert images["inference-gateway-ext-proc"].endswith("@sha256:" + "0" * 64)
    assert images["qwen"].endswith(":v0.32.0")


def test_the_presets_select_nodes_with_the_cards() -> None:
    """A10 by the node's label in ACK. L20 by the pod's labels in ACS."""
    a10, l20 = (scenario(f"gpu-{card}-values")["Deployment", "qwen"]["spec"]["template"] for card in ("a10", "l20"))
    assert a10["spec"]["nodeSelector"] == {"aliyun.accelerator/nvidia_name": "NVIDIA-A10"}
    assert l20["metadata"]["labels"]["alibabacloud.com/gpu-model-series"] == "L20"
    for template in (a10, l20):
        resources = template["spec"]["containers"][0]["resources"]
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"
    resources = l20["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]


@pytest.mark.parametrize(
    ("arguments", "namespaces"),
    [
        ((), ["envoy-gateway-system", "default"]),
        (("--set", "workload.namespace="), ["envoy-gateway-system"]),
        (("--set", "gateway-helm.enabled=false,extension.envoyGatewayNamespace=shared"), ["shared", "default"]),
    ],
)
def test_a_pre_delete_hook_deletes_the_gateway(arguments: Sequence[str], namespaces: Sequence[str]) -> None:
    """The Job looks for the proxy in each namespace where Envoy Gateway may have deployed it.

    The objects that the Job needs are hooks, too.
    """
    name = "inference-gateway-uninstall"
    objects = rendered(*arguments)
    command = objects["Job", name]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert command == [
        "teardown",
        f"--gateway={namespaces[-1]}/qwen-inference-gateway",
        "--gateway-class=qwen-inference-gateway-class",
        *(f"--proxy-namespace={namespace}" for namespace in namespaces),
    ]
    for kind in ("Job", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        full = f"{name}-envoy-gateway-system" if kind.startswith("Cluster") else name
        annotations = objects[kind, full]["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-delete"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_the_uninstall_hook_fits_on_a_full_or_cordoned_cluster() -> None:
    """It requests nothing. A Job that cannot start ends before helm's timeout of 5 minutes."""
    job = rendered("--set", "extension.tolerations[0].key=gpu")["Job", "inference-gateway-uninstall"]["spec"]
    pod = job["template"]["spec"]
    assert pod["containers"][0]["resources"]["requests"] == {"cpu": 0, "memory": 0}
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["gpu", "node.kubernetes.io/unschedulable"]
    assert job["activeDeadlineSeconds"] < 300


@pytest.mark.parametrize(
    ("gateway", "proxy"),
    [
        ("qwen-inference-gateway", "envoy-default-qwen-inference-gateway-25d4d882"),
        (
            "a-gateway-whose-name-is-longer-than-others",
            "envoy-default-a-gateway-whose-name-is-longer-than-othe-f73f7d8f",
        ),
    ],
)
def test_the_uninstall_hook_may_delete_only_its_gateway_and_proxy(gateway: str, proxy: str) -> None:
    """By name. Envoy Gateway names a proxy by the first 48 characters of its Gateway and a hash of the whole."""
    role = rendered("--set", f"gateway.name={gateway}", namespace="default")["Role", "inference-gateway-uninstall"]
    names = {
        kind: rule["resourceNames"] for rule in role["rules"] if "delete" in rule["verbs"] for kind in rule["resources"]
    }
    assert names.pop("gateways") == [gateway]
    assert {name for kinds in names.values() for name in kinds} == {proxy}
    assert "deployments" in names


@pytest.mark.parametrize("setting", ["gateway.uninstallHook=false", "gateway.enabled=false"])
def test_the_uninstall_hook_can_be_disabled(setting: str) -> None:
    """A release without a Gateway has no hook."""
    assert not [name for _, name in rendered("--set", setting) if name == "inference-gateway-uninstall"]


def test_a_new_version_of_the_chart_restarts_no_model_server() -> None:
    """A model takes minutes to load. The pods' labels do not include the version."""
    labels = rendered()["Deployment", "qwen"]["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("picker.replica=2", "additional properties 'replica' not allowed"),
        ("pool.routingStrategy=FASTEST", "/pool/routingStrategy"),
        ("pool.settings.flow-contol=true", "flow-contol"),
        ("pool.settings.scrape-interval=often", "scrape-interval"),
        ("vllm.preset=h100", "/vllm/preset"),
        ("picker.replicas=two", "/picker/replicas"),
        ("picker.settings.logLevel=debug", "logLevel"),
        ("gateway.requestTimeout=forever", "/gateway/requestTimeout"),
    ],
)
def test_an_invalid_value_is_rejected_by_name(setting: str, message: str) -> None:
    """Helm rejects it before the installation, and the message names the value."""
    with pytest.raises(RenderFailed, match=message):
        rendered("--set", setting)


def test_every_value_is_described() -> None:
    """Schema and values.yaml have the same values, and the kitchen-sink scenario sets each of them."""
    schema = yaml.safe_load((CHART / "values.schema.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    sink = yaml.safe_load((CHART / "ci" / "kitchen-sink-values.yaml").read_text())
    for section in ("workload", "gateway", "pool", "picker", "extension", "vllm", "benchmark", "observability"):
        known = set(schema["properties"][section]["properties"])
        assert known == set(values[section]), section
        unset = known - set(sink[section]) - {"mockImage", "topologySpreadConstraints"}
        assert not unset, section


def test_the_nightly_jobs_role_matches_the_chart() -> None:
    """`make nightly-access` writes it after a change of the chart."""
    manifests = ROOT / "ci" / "nightly" / "manifests"
    code = "import sys, nightly_access; sys.stdout.write(nightly_access.manifest())"
    text = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "ci", capture_output=True, text=True, check=True
    ).stdout
    assert (manifests / "access.yaml").read_text() == text
    assert "'*'" not in text


def test_the_json_schema_is_up_to_date() -> None:
    """`make chart-schema` writes it after an edit of values.schema.yaml."""
    text = subprocess.run(
        [sys.executable, "-c", "import chart_schema; print(chart_schema.rendered(), end='')"],
        cwd=ROOT / "ci", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads((CHART / "values.schema.json").read_text()) == json.loads(text)
