"""What the chart renders, with no cluster. Skipped where helm, or the archive of Envoy Gateway's chart, is missing."""

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


class Refused(Exception):
    """Helm would not render; the message is its own."""


@cache
def helm(*arguments: str) -> str:
    done = subprocess.run(["helm", *arguments, "--kube-version", "1.34.0"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stdout + done.stderr)
    return done.stdout


def rendered(*arguments: str, namespace: str = "envoy-gateway-system") -> Objects:
    """By kind and name."""
    text = helm("template", "inference-gateway", str(CHART), "--namespace", namespace, *arguments)
    objects = [each for each in yaml.safe_load_all(text) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def scenario(name: str) -> Objects:
    return rendered("--values", str(CHART / "ci" / f"{name}.yaml"))


def tutorial(*files: str) -> list[dict[str, Any]]:
    return [each for file in files for each in yaml.safe_load_all((TUTORIAL / file).read_text())]


@pytest.mark.parametrize(
    "wanted",
    tutorial("inference-gateway.yaml", "inference-pool.yaml", "vllm-benchmark.yaml"),
    ids=lambda each: f"{each['kind']}-{each['metadata']['name']}",
)
def test_with_every_path_open_the_objects_are_the_tutorials(wanted: dict[str, Any]) -> None:
    """Name for name and field for field, the labels aside that the chart adds."""
    found = scenario("tutorial-values")[wanted["kind"], wanted["metadata"]["name"]]
    assert found["apiVersion"] == wanted["apiVersion"]
    assert found["spec"] == wanted["spec"]
    if wanted["kind"] != "GatewayClass":
        assert found["metadata"]["namespace"] == wanted["metadata"].get("namespace", "default")


def test_the_service_of_the_model_servers_is_what_the_tutorials_route_means() -> None:
    """`qwen`, port 8000, label app: qwen."""
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
    """Each values file in ci/ is an installation that somebody has."""
    assert "0 chart(s) failed" in helm("lint", str(CHART), "--values", str(CHART / "ci" / f"{name}.yaml"))
    assert scenario(name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_reference_to_a_name_of_ours_is_to_something_that_is_there(name: str) -> None:
    """Service accounts and roles."""
    objects = scenario(name)
    for (kind, _), each in objects.items():
        if kind == "Deployment" and (account := each["spec"]["template"]["spec"].get("serviceAccountName")):
            assert ("ServiceAccount", account) in objects
        if kind in ("RoleBinding", "ClusterRoleBinding"):
            assert (each["roleRef"]["kind"], each["roleRef"]["name"]) in objects


def test_the_extensions_address_follows_the_namespace() -> None:
    """Envoy Gateway is told a name without one and looks in its own; Envoy is told the whole."""
    for namespace in ("envoy-gateway-system", "elsewhere"):
        objects = rendered(namespace=namespace)
        config = yaml.safe_load(objects["ConfigMap", "envoy-gateway-config"]["data"]["envoy-gateway.yaml"])
        address = config["extensionManager"]["service"]["fqdn"]
        service = objects["Service", address["hostname"]]
        assert service["metadata"]["namespace"] == namespace
        assert address["port"] in [port["port"] for port in service["spec"]["ports"]]
        environment = objects["Deployment", address["hostname"]]["spec"]["template"]["spec"]["containers"][0]["env"]
        target = next(each["value"] for each in environment if each["name"] == "PICKER_EDS_TARGET")
        assert target == f"inference-gateway-endpoints.{namespace}.svc.cluster.local:9004"
        asked = objects["Service", "inference-gateway-endpoints"]
        assert asked["metadata"]["namespace"] == namespace
        assert asked["spec"]["selector"] == service["spec"]["selector"]


def test_the_extension_is_asked_at_its_pods_own_addresses() -> None:
    """The address of a Service that the nodes do not know yet leads out of the cluster, to whoever answers there."""
    objects = rendered()
    service = objects["Service", "inference-gateway-extension"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    # Proxies find a new pod at once, and without asking for a name again.
    assert "clusterIP" not in objects["Service", "inference-gateway-endpoints"]["spec"]


@pytest.mark.parametrize("setting", ["picker.spread=true", "picker.autoscaling.enabled=true"])
def test_more_than_one_picker_is_asked_where_one_may_be_too_few(setting: str) -> None:
    """An autoscaler adds replicas because those that are asked have too much to do."""

    def annotations(objects: Objects) -> dict[str, str]:
        return objects["Service", "inference-gateway-ext-proc"]["metadata"].get("annotations", {})

    assert annotations(rendered()) == {}
    assert annotations(rendered("--set", setting)) == {SPREAD: "true"}


def environment(objects: Objects, deployment: str) -> dict[str, str]:
    container = objects["Deployment", deployment]["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def test_values_are_settings_of_the_picker() -> None:
    """Under the names that `picker serve --help` tells; whole numbers stay whole."""
    told = environment(scenario("kitchen-sink-values"), "inference-gateway-ext-proc")
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
        "PICKER_TRUSTED_HEADERS": '["x-gateway-inference-fairness-id"]',
    }.items() <= told.items()


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_picker_takes_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of every scenario: a setting that it does not know would keep it from starting."""
    objects = scenario(name)
    for deployment, settings in (
        ("inference-gateway-ext-proc", ServeSettings),
        ("inference-gateway-extension", GatewaySettings),
    ):
        told = environment(objects, deployment)
        own = {key: value.replace("$(POD_IP)", "10.0.0.1") for key, value in told.items() if key.startswith("PICKER_")}
        for key, value in own.items():
            monkeypatch.setenv(key, value)
        if settings is GatewaySettings:
            monkeypatch.setenv("PICKER_NAMESPACE", "system")
        settings.read([], "picker")
        for key in own:
            monkeypatch.delenv(key)


def test_values_that_are_not_set_are_what_they_say() -> None:
    """Who reads values.yaml reads the truth about what is not set."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["picker"]
    fields = ServeSettings.model_fields
    flow = values["flowControl"]
    told = {
        "kept_decisions": values["keptDecisions"],
        "traces_sample_ratio": values["traces"]["sampleRatio"],
        "flow_control": flow["enabled"],
        "flow_control_time_limit_s": flow["timeLimitSeconds"],
        "flow_control_max_requests": flow["maxRequests"],
        "flow_control_max_bytes": flow["maxBytes"],
    }
    assert told == {name: fields[name].default for name in told}


@pytest.mark.parametrize("name", SCENARIOS)
def test_policies_let_in_who_has_to_ask(name: str) -> None:
    """Proxies the picker; Envoy Gateway and proxies the extension."""
    objects = scenario(name)
    for name, ports in (("inference-gateway-ext-proc", [9002]), ("inference-gateway-extension", [5005, 9004])):
        policy = objects["NetworkPolicy", name]["spec"]
        pods = objects["Deployment", name]["spec"]["selector"]["matchLabels"]
        assert policy["podSelector"]["matchLabels"] == pods
        assert [port["port"] for rule in policy["ingress"] if "from" in rule for port in rule["ports"]] == ports


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_policy_lets_in_a_pod_for_its_labels_alone(name: str) -> None:
    """Whoever makes a pod writes its labels; a namespace's name the API server writes."""
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
    """Envoy Gateway's own, and those of the Gateways in its mode GatewayNamespace."""
    for policy in policies(rendered("--set", settings)):
        for rule in policy["spec"]["ingress"]:
            if {9002, 9004} & {port["port"] for port in rule["ports"]}:
                found = {
                    peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]
                }
                assert found == namespaces


def test_what_holds_the_authoritys_key_has_a_policy_wherever_tls_is() -> None:
    """Whatever the values say of the policy itself."""
    objects = rendered("--set", "extension.networkPolicy.enabled=false")
    assert ("NetworkPolicy", "inference-gateway-extension") in objects
    off = "extension.networkPolicy.enabled=false,picker.tls.enabled=false"
    assert ("NetworkPolicy", "inference-gateway-extension") not in rendered("--set", off)


def policies(objects: Objects) -> list[dict[str, Any]]:
    found = [each for (kind, _), each in objects.items() if kind == "NetworkPolicy"]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_port_of_the_service_marks_the_pickers_that_listen_by_tls(enabled: str) -> None:
    """Both kinds are there while a rollout changes it. The Secrets are there in any case."""
    objects = rendered("--set", f"picker.tls.enabled={enabled}")
    container = objects["Deployment", "inference-gateway-ext-proc"]["spec"]["template"]["spec"]["containers"][0]
    names = {port["name"] for port in container["ports"] if port["containerPort"] == 9002}
    service = {port["name"]: port for port in objects["Service", "inference-gateway-ext-proc"]["spec"]["ports"]}
    assert service["ext-proc"]["targetPort"] == 9002
    assert (service["ext-proc-tls"]["targetPort"] in names) == (enabled == "true")
    assert ("Secret", "inference-gateway-ext-proc-envoy-tls") in objects


def test_envoy_gateway_and_the_extension_show_each_other_certificates() -> None:
    """Of Secrets that the release brings, and for which Envoy Gateway's pod waits."""
    objects = rendered()
    config = yaml.safe_load(objects["ConfigMap", "envoy-gateway-config"]["data"]["envoy-gateway.yaml"])
    tls = config["extensionManager"]["service"]["tls"]
    for reference in tls["certificateRef"], tls["clientCertificateRef"]:
        assert ("Secret", reference["name"]) in objects
    pod = objects["Deployment", "envoy-gateway"]["spec"]["template"]["spec"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "extension-client-tls"]
    assert volume["secret"]["secretName"] == tls["clientCertificateRef"]["name"]
    assert [item["key"] for item in volume["secret"]["items"]] == ["tls.crt"]
    assert "extension-client-tls" in [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]


@pytest.mark.parametrize("port", ["qwen-backend", "qwen-backend-no-inference"])
def test_a_model_servers_administrative_routes_are_closed(port: str) -> None:
    """Only what is listed is a route; on both ports."""
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


def test_a_listener_has_tls_where_it_names_a_certificate() -> None:
    """And the tutorial's protocol elsewhere."""
    secured = "gateway.listeners.llm.tls.certificateRefs[0].name=chat"
    http, llm = rendered("--set", secured)["Gateway", "qwen-inference-gateway"]["spec"]["listeners"]
    assert (http["protocol"], "tls" in http) == ("HTTP", False)
    assert (llm["protocol"], llm["tls"]["certificateRefs"]) == ("HTTPS", [{"name": "chat"}])


def pods(objects: Objects) -> dict[str, dict[str, Any]]:
    """Specs of all pods, by the names of what makes them."""
    found: dict[str, dict[str, Any]] = {}
    for (kind, name), each in objects.items():
        if kind == "Pod":
            found[name] = each["spec"]
        elif kind in ("Deployment", "Job", "DaemonSet", "StatefulSet"):
            found[name] = each["spec"]["template"]["spec"]
    return found


def unrestricted(pod: Mapping[str, Any]) -> set[str]:
    """What the restricted Pod Security Standard does not allow of a pod."""
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
    if any(pod.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")):
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
def test_pods_are_what_the_restricted_profile_allows(name: str) -> None:
    """All but the user of images that run as root, as the values say: vLLM's, and the tutorial's benchmark."""
    for pod, spec in pods(scenario(name)).items():
        excused: set[str] = set()
        if spec["containers"][0].get("command", [""])[0] == "vllm":
            # A volume of the host is the scenario's own.
            excused = {"user", "volumes"}
        if pod == "vllm-benchmark" and name == "tutorial-values":
            excused = {"user", "seccomp", "privileges", "capabilities"}
        assert unrestricted(spec) <= excused, pod


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_pod_has_a_token_of_an_account_of_its_own_or_none(name: str) -> None:
    """The default account's may become worth something."""
    for pod, spec in pods(scenario(name)).items():
        if pod == "vllm-benchmark" and name == "tutorial-values":
            continue
        assert spec.get("serviceAccountName") or spec.get("automountServiceAccountToken") is False, pod


def test_names_of_the_cluster_carry_the_releases_namespace() -> None:
    """So that a release of the same name can be in another one. Envoy Gateway's own chart is not asked."""
    kinds = ("ClusterRole", "ClusterRoleBinding")
    one, other = (
        {key for key in rendered("--set", "gateway-helm.enabled=false", namespace=namespace) if key[0] in kinds}
        for namespace in ("one", "other")
    )
    assert one
    assert not one & other


def test_numbers_of_replicas_can_be_left_to_others() -> None:
    """Then `helm upgrade` does not set back what was scaled."""
    settings = "picker.replicas=null,vllm.replicas=null,extension.replicas=null"
    objects = rendered("--set", settings)
    for name in ("inference-gateway-ext-proc", "inference-gateway-extension", "qwen"):
        assert "replicas" not in objects["Deployment", name]["spec"]
        assert rendered()["Deployment", name]["spec"]["replicas"] == 2


def test_the_largest_body_is_one_value_for_picker_and_extension() -> None:
    """Envoy answers 413 by what the extension knows."""
    objects = rendered("--set", "picker.settings.max_body_bytes=33554432")
    for name in ("inference-gateway-ext-proc", "inference-gateway-extension"):
        assert environment(objects, name)["PICKER_MAX_BODY_BYTES"] == "33554432"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_container_has_each_variable_once(name: str) -> None:
    """Of two Kubernetes takes the last, and says so to nobody who reads the first."""
    for pod, spec in pods(scenario(name)).items():
        for container in spec["containers"]:
            names = [each["name"] for each in container.get("env", [])]
            assert len(names) == len(set(names)), pod


@pytest.mark.parametrize("deployment", ["inference-gateway-ext-proc", "inference-gateway-extension"])
def test_the_cluster_reaches_metrics_and_health_alone(deployment: str) -> None:
    """At the pod's address. The rest listens on loopback, as it does by default."""
    told = environment(rendered(), deployment)
    assert told["PICKER_METRICS_ADDRESS"] == "$(POD_IP):9090"
    assert "PICKER_ADMIN_ADDRESS" not in told
    assert ServeSettings.model_fields["admin_address"].default.startswith("127.0.0.1:")
    container = rendered()["Deployment", deployment]["spec"]["template"]["spec"]["containers"][0]
    names = [each["name"] for each in container["env"]]
    assert names.index("POD_IP") < names.index("PICKER_METRICS_ADDRESS")


def test_model_servers_are_evicted_one_by_one() -> None:
    """By default: a model takes minutes to load."""
    budget = rendered()["PodDisruptionBudget", "qwen"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == {"app": "qwen"}


def test_an_image_has_the_registry_of_the_release_and_its_digest_before_its_tag() -> None:
    """For clusters that reach their own registry only."""
    objects = scenario("kitchen-sink-values")
    images = {
        name: each["spec"]["template"]["spec"]["containers"][0]["image"]
        for (kind, name), each in objects.items()
        if kind == "Deployment"
    }
    assert all(image.startswith("registry.example.com/") for image in images.values()), images
    assert images["inference-gateway-ext-proc"].endswith("@sha256:" + "0" * 64)
    assert images["qwen"].endswith(":v0.32.0")


def test_the_presets_say_where_the_cards_are() -> None:
    """A10 by the node's label in ACK, L20 by the pod's labels in ACS."""
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
def test_before_a_release_goes_its_gateway_does(arguments: Sequence[str], namespaces: Sequence[str]) -> None:
    """Looking for the proxy where Envoy Gateway may have put it. All that the Job needs comes and goes with it."""
    name = "inference-gateway-uninstall"
    objects = rendered(*arguments)
    told = objects["Job", name]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert told == [
        "teardown",
        f"--gateway={namespaces[-1]}/qwen-inference-gateway",
        "--gateway-class=qwen-inference-gateway-class",
        *(f"--proxy-namespace={each}" for each in namespaces),
    ]
    for kind in ("Job", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        full = f"{name}-envoy-gateway-system" if kind.startswith("Cluster") else name
        annotations = objects[kind, full]["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-delete"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


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
def test_the_uninstall_hook_may_delete_one_gateway_and_its_proxy_only(gateway: str, proxy: str) -> None:
    """By their names; Envoy Gateway calls a proxy by up to 48 letters of its Gateway and a hash of the whole."""
    role = rendered("--set", f"gateway.name={gateway}", namespace="default")["Role", "inference-gateway-uninstall"]
    names = {
        kind: rule["resourceNames"] for rule in role["rules"] if "delete" in rule["verbs"] for kind in rule["resources"]
    }
    assert names.pop("gateways") == [gateway]
    assert {name for each in names.values() for name in each} == {proxy}
    assert "deployments" in names


@pytest.mark.parametrize("setting", ["gateway.uninstallHook=false", "gateway.enabled=false"])
def test_a_release_can_go_without_its_hook(setting: str) -> None:
    """And one that brings no Gateway has none to remove."""
    assert not [name for _, name in rendered("--set", setting) if name == "inference-gateway-uninstall"]


def test_a_new_version_of_the_chart_rolls_no_model_server() -> None:
    """A model takes minutes to load."""
    labels = rendered()["Deployment", "qwen"]["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("picker.replica=2", "additional properties 'replica' not allowed"),
        ("pool.routingStrategy=FASTEST", "/pool/routingStrategy"),
        ("vllm.preset=h100", "/vllm/preset"),
        ("picker.replicas=two", "/picker/replicas"),
        ("picker.settings.logLevel=debug", "logLevel"),
        ("gateway.requestTimeout=forever", "/gateway/requestTimeout"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, told: str) -> None:
    """Before anything is installed."""
    with pytest.raises(Refused, match=told):
        rendered("--set", setting)


def test_every_value_is_described() -> None:
    """In the schema, which knows exactly those of values.yaml, and the kitchen sink sets each of them."""
    schema = yaml.safe_load((CHART / "values.schema.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    sink = yaml.safe_load((CHART / "ci" / "kitchen-sink-values.yaml").read_text())
    for section in ("workload", "gateway", "pool", "picker", "extension", "vllm", "benchmark", "observability"):
        known = set(schema["properties"][section]["properties"])
        assert known == set(values[section]), section
        unset = known - set(sink[section]) - {"mockImage", "topologySpreadConstraints"}
        assert not unset, section


def test_the_nightly_jobs_rights_are_those_of_what_it_installs() -> None:
    """After a change of the chart: make nightly-access."""
    manifests = ROOT / "ci" / "nightly" / "manifests"
    code = "import sys, nightly_access; sys.stdout.write(nightly_access.manifest())"
    text = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "ci", capture_output=True, text=True, check=True
    ).stdout
    assert (manifests / "access.yaml").read_text() == text
    assert "'*'" not in text


def test_the_json_schema_is_the_written_one() -> None:
    """After an edit of values.schema.yaml: make chart-schema."""
    text = subprocess.run(
        [sys.executable, "-c", "import chart_schema; print(chart_schema.rendered(), end='')"],
        cwd=ROOT / "ci", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads((CHART / "values.schema.json").read_text()) == json.loads(text)
