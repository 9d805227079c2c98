"""Objects that the chart renders for `models`: several model servers and pools in one release."""

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from picker.resources.validate import validate_files
from test_chart import CHART, Objects, RenderFailed, environment, helm, pytestmark, rendered
from test_observability_templates import OPERATOR, of_kind

__all__ = ["pytestmark"]  # Skips these tests, too, if the chart cannot be rendered.

SCENARIOS = ("models-values", "gpu-models-values")
# Without the objects that take long to parse.
SHORT = ("--set", "gateway-helm.enabled=false,observability.dashboards.enabled=false")
HEADER = "X-Gateway-Model-Name"
PORTS = {"llm-gw": "InferencePool", "http": "Service"}
"""Kind of the backends by the Gateway's listener."""


def render(*flags: str) -> Objects:
    return rendered(*SHORT, *flags)


def scenario(name: str, *flags: str) -> Objects:
    return render("--values", str(CHART / "ci" / f"{name}.yaml"), *flags)


def routes(objects: Objects, listener: str) -> Iterator[dict[str, Any]]:
    for route in of_kind(objects, "HTTPRoute").values():
        if [parent["sectionName"] for parent in route["spec"]["parentRefs"]] == [listener]:
            yield route["spec"]


def backends(objects: Objects, listener: str) -> dict[tuple[str, str | None], str]:
    """Name of the backend by path and name of the model. No model: requests that match no route by model."""
    found: dict[tuple[str, str | None], str] = {}
    for spec in routes(objects, listener):
        for rule in spec["rules"]:
            [backend] = rule["backendRefs"]
            assert backend["kind"] == PORTS[listener]
            for match in rule["matches"]:
                assert match["path"]["type"] == "PathPrefix"
                headers = match.get("headers", [])
                assert [header["name"] for header in headers] in ([], [HEADER])
                key = match["path"]["value"], headers[0]["value"] if headers else None
                assert key not in found
                found[key] = backend["name"]
    return found


def pods_selected(objects: Objects, labels: Mapping[str, str]) -> list[str]:
    """Names of the Deployments whose pods have the labels."""
    return [
        name
        for name, manifest in of_kind(objects, "Deployment").items()
        if labels.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()
    ]


def pool_selector(pool: Mapping[str, Any]) -> Mapping[str, str]:
    selector = pool["spec"]["selector"]
    return selector.get("matchLabels", selector)


def arguments(objects: Objects, deployment: str) -> list[str]:
    return objects["Deployment", deployment]["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_model_selects_its_own_pods_only(name: str) -> None:
    """The pool, the Service, the disruption budget and the monitor."""
    objects = scenario(name, *OPERATOR)
    for key in ("chat", "code"):
        of_model = f"inference-gateway-{key}"
        selectors = {
            "Deployment": objects["Deployment", of_model]["spec"]["selector"]["matchLabels"],
            "Service": objects["Service", of_model]["spec"]["selector"],
            "PodDisruptionBudget": objects["PodDisruptionBudget", of_model]["spec"]["selector"]["matchLabels"],
            "PodMonitor": objects["PodMonitor", of_model]["spec"]["selector"]["matchLabels"],
            "InferencePool": pool_selector(objects["InferencePool", of_model]),
        }
        for kind, selector in selectors.items():
            assert pods_selected(objects, selector) == [of_model], kind
    assert len(of_kind(objects, "InferencePool")) == 2


@pytest.mark.parametrize("name", SCENARIOS)
def test_requests_reach_a_model_by_its_names_on_both_ports(name: str) -> None:
    """The names of the model and of its adapters, on each path, each in one match. The gateway serves /v1/models."""
    objects = scenario(name)
    code, default = {"models-values": ("qwen/coder", None), "gpu-models-values": ("qwen2.5-coder", "chat")}[name]
    adapters = {"models-values": ["chat-sql"], "gpu-models-values": ["chat-sql", "chat-summary"]}[name]
    paths = {*yaml.safe_load((CHART / "values.yaml").read_text())["gateway"]["paths"]} - {"/v1/models"}
    keys: dict[str | None, str] = {"chat": "chat", code: "code", **dict.fromkeys(adapters, "chat")}
    if default:
        keys[None] = default
    for listener in PORTS:
        expected = {(path, model): f"inference-gateway-{key}" for path in paths for model, key in keys.items()}
        assert backends(objects, listener) == expected


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_picker_accepts_pools_models_and_routes(name: str, tmp_path: Path) -> None:
    """`picker validate` reports no problem, and finds the picker's Service and each pool of a route."""
    objects = scenario(name)
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(objects.values()))
    report = validate_files([tmp_path / "objects.yaml"])
    assert report.problems == report.warnings == ()
    for (kind, pool), manifest in objects.items():
        if kind == "InferencePool":
            spec = manifest["spec"]
            picker = (spec.get("endpointPickerRef") or spec["extensionRef"])["name"]
            assert ("Service", picker) in objects, pool
            assert objects["Service", picker]["metadata"]["namespace"] == manifest["metadata"]["namespace"]
    for listener, kind in PORTS.items():
        for backend in backends(objects, listener).values():
            assert (kind, backend) in objects


def test_a_route_has_no_more_matches_than_the_gateway_api_allows() -> None:
    """64 in a rule and 128 in a route. A model with many adapters has several routes."""
    sets = ",".join(f"models.chat.adapters[{index}].name=a{index}" for index in range(64))
    objects = render("--set", f"models.code.preset=mock,gateway.defaultModel=chat,{sets}")
    for listener in PORTS:
        for spec in routes(objects, listener):
            counts = [len(rule["matches"]) for rule in spec["rules"]]
            assert max(counts) <= 64
            assert sum(counts) <= 128
        found = backends(objects, listener)
        names = Counter(model for _, model in found)
        assert names == dict.fromkeys(("chat", "code", None, *(f"a{index}" for index in range(64))), 8)
    one_path = render("--set", f"gateway.paths={{/v1}},models.code.preset=mock,{sets}")
    assert len(list(routes(one_path, "http"))) == 3


def test_an_entry_overrides_values_of_vllm() -> None:
    """Also with false, zero and empty values. Maps are merged, and lists are replaced."""
    objects = render(
        "--set", "vllm.nodeSelector.zone=a,vllm.arguments={--all},vllm.port=8100,vllm.podAnnotations.all=yes",
        "--set", "models.chat.preset=mock,models.chat.replicas=0,models.chat.port=8200,models.chat.nodeSelector.disk=b",
        "--set", "models.chat.podDisruptionBudget.enabled=false,models.chat.terminationGracePeriodSeconds=20",
        "--set-json", 'models.chat.arguments=["--own"]', "--set", "models.chat.routingStrategy=PREFIX_CACHE",
        "--set", "models.code.failureMode=FailOpen",
    )  # fmt: skip
    chat, code = (objects["Deployment", f"inference-gateway-{key}"]["spec"] for key in ("chat", "code"))
    assert (chat["replicas"], code["replicas"]) == (0, 2)
    pod = chat["template"]["spec"]
    assert pod["nodeSelector"] == {"zone": "a", "disk": "b"}
    assert pod["terminationGracePeriodSeconds"] == 20
    assert arguments(objects, "inference-gateway-chat")[-2:] == ["--port=8200", "--own"]
    assert arguments(objects, "inference-gateway-code")[-1] == "--all"
    assert ("PodDisruptionBudget", "inference-gateway-chat") not in objects
    assert ("PodDisruptionBudget", "inference-gateway-code") in objects
    pools = {key: objects["InferencePool", f"inference-gateway-{key}"] for key in ("chat", "code")}
    assert [pool["spec"]["targetPortNumber"] for pool in pools.values()] == [8200, 8100]
    annotation = "inference.networking.x-k8s.io/routing-strategy"
    assert pools["chat"]["metadata"]["annotations"] == {annotation: "PREFIX_CACHE"}
    assert "annotations" not in pools["code"]["metadata"]
    assert pools["code"]["spec"]["extensionRef"]["failureMode"] == "FailOpen"
    ports = {spec["rules"][0]["backendRefs"][0]["port"] for spec in routes(objects, "http")}
    assert ports == {8200, 8100}


def test_settings_of_an_entry_override_those_of_all_pools() -> None:
    objects = render(
        "--set", "pool.settings.flow-control=true,pool.settings.flow-control-max-requests=100",
        "--set", "models.chat.preset=mock,models.chat.settings.flow-control=false,models.code.preset=mock",
    )  # fmt: skip
    chat, code = (
        objects["InferencePool", f"inference-gateway-{key}"]["metadata"]["annotations"] for key in ("chat", "code")
    )
    prefix = "inference.networking.x-k8s.io"
    assert code == {f"{prefix}/flow-control": "true", f"{prefix}/flow-control-max-requests": "100"}
    assert chat == code | {f"{prefix}/flow-control": "false"}


def test_replicas_of_null_in_an_entry_write_no_number() -> None:
    """The number of the model's servers is then left to an autoscaler."""
    objects = render("--set", "models.chat.replicas=null,models.code.preset=mock")
    assert "replicas" not in objects["Deployment", "inference-gateway-chat"]["spec"]
    assert objects["Deployment", "inference-gateway-code"]["spec"]["replicas"] == 2


def test_each_model_has_its_own_preset() -> None:
    """Node selection, resources and flags."""
    objects = scenario("gpu-models-values")
    chat, code = (objects["Deployment", f"inference-gateway-{key}"]["spec"]["template"] for key in ("chat", "code"))
    assert chat["metadata"]["labels"]["alibabacloud.com/gpu-model-series"] == "L20"
    assert "alibabacloud.com/acs" not in code["metadata"]["labels"]
    assert code["spec"]["nodeSelector"] == {"aliyun.accelerator/nvidia_name": "NVIDIA-A10"}
    assert "--max-model-len=16384" in arguments(objects, "inference-gateway-chat")
    assert "--max-model-len=8192" in arguments(objects, "inference-gateway-code")
    assert arguments(objects, "inference-gateway-code")[:2] == [
        "/models/Qwen2.5-Coder-7B-Instruct", "--served-model-name=qwen2.5-coder",
    ]  # fmt: skip


def test_servers_get_the_adapters_before_the_own_arguments() -> None:
    """An adapter without a path is routed, and not loaded at the start."""
    chat = arguments(scenario("gpu-models-values"), "inference-gateway-chat")
    assert chat[chat.index("--enable-lora") :] == [
        "--enable-lora", "--lora-modules", "chat-sql=/models/adapters/sql", "chat-summary=/models/adapters/summary",
        "--max-loras=2", "--max-lora-rank=32",
    ]  # fmt: skip
    bare = render("--set", "models.chat.preset=mock,models.chat.adapters[0].name=later")
    assert arguments(bare, "inference-gateway-chat")[-2:] == ["--port=8000", "--enable-lora"]


def test_a_criticality_is_an_inference_model_for_each_name() -> None:
    """An adapter's own criticality overrides the model's."""
    objects = scenario("gpu-models-values")
    found = {
        spec["modelName"]: (spec["criticality"], spec["poolRef"]["name"])
        for spec in (manifest["spec"] for manifest in of_kind(objects, "InferenceModel").values())
    }
    pool = "inference-gateway-chat"
    assert found == {
        "chat": ("Critical", pool), "chat-sql": ("Critical", pool), "chat-summary": ("Sheddable", pool),
    }  # fmt: skip
    # modelName is immutable: the object of another name of the model is another object.
    renamed = render("--set", "models.chat.criticality=Critical,models.chat.model.servedName=new")
    assert not set(of_kind(renamed, "InferenceModel")) & set(of_kind(objects, "InferenceModel"))


@pytest.mark.parametrize(
    ("release", "key", "name"),
    [
        ("llm", "chat", "llm-chat"),
        ("team.llm", "chat", "team-llm-chat"),
        ("2026", "chat", "m2026-chat"),
        ("r" * 53, "k" * 63, None),
        ("r" * 53, "k" * 62, None),
    ],
)
def test_the_names_of_a_models_objects_are_dns_labels(release: str, key: str, name: str | None) -> None:
    """They begin with a letter, as a Service's has to. A name that is too long ends with a hash of the whole."""
    text = helm("template", release, str(CHART), *SHORT, "--set", f"models.{key}.preset=mock")
    names = [
        manifest["metadata"]["name"]
        for manifest in yaml.safe_load_all(text)
        if manifest and manifest["kind"] == "Service" and manifest["spec"]["selector"].get("app")
    ]
    assert len(names) == 1
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", names[0])
    if name:
        assert names == [name]
    else:
        assert re.fullmatch(r"r{53}-[0-9a-f]{8}", names[0])


def test_long_keys_have_different_names() -> None:
    long = "k" * 60
    objects = render("--set", f"models.{long}1.preset=mock,models.{long}2.preset=mock")
    assert len(of_kind(objects, "InferencePool")) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("models.chat.preset=h100", "/models/chat/preset"),
        ("models.chat.replica=2", "additional properties 'replica' not allowed"),
        ("models.chat=null", "at '/models/chat': got null, want object"),
        ("models.Chat.preset=mock", "'Chat' does not match pattern"),
        ("models.chat-.preset=mock", "'chat-' does not match pattern"),
        ("models.chat.model.servedName=a b", "/models/chat/model/servedName"),
        ("models.chat.adapters[0].path=/a", "missing property 'name'"),
        ("models.chat.podLabels.app=other", "invalid propertyName 'app'"),
        ("models.a.model.servedName=m,models.b.model.servedName=m", 'models.a and models.b both serve "m"'),
        ("models.chat.preset=mock,models.code.model.servedName=chat", 'models.chat and models.code both serve "chat"'),
        ("models.chat.adapters[0].name=a,models.code.adapters[0].name=a", 'models.chat and models.code both serve "a"'),
        ("models.chat.adapters[0].name=code,models.code.preset=mock", 'models.chat and models.code both serve "code"'),
        ("models.chat.adapters[0].name=chat", 'models.chat and models.chat both serve "chat"'),
        ("models.ext-proc.preset=mock", "inference-gateway-ext-proc is the name of another object of the release"),
        ("models.chat.preset=mock,gateway.defaultModel=code", 'gateway.defaultModel: "code" is not an enabled entry'),
        ("models.chat.preset=mock,gateway.paths={/v1/models}", "models need a path besides /v1/models"),
        ("gateway.defaultModel=chat", 'gateway.defaultModel: "chat" is not an enabled entry'),
    ],
)  # fmt: skip
def test_invalid_models_are_rejected_by_name(settings: str, message: str) -> None:
    with pytest.raises(RenderFailed, match=re.escape(message)):
        render("--set", settings)


def test_no_object_takes_the_name_of_another_kind_of_the_release() -> None:
    """Every name that a key could collide with is rejected: `helm upgrade` would replace that object."""
    objects = rendered(*OPERATOR, "--set", "workload.namespace=,benchmark.enabled=true")
    kinds = ("Deployment", "Service", "PodDisruptionBudget", "PodMonitor", "InferencePool", "HTTPRoute")
    for kind, name in objects:
        release, _, key = name.partition("-")
        if kind in kinds and key and not name.endswith("qwen-pool") and not name.startswith("qwen-backend"):
            with pytest.raises(RenderFailed, match="is the name of another object of the release"):
                helm("template", release, str(CHART), "--set", f"models.{key}.preset=mock")


def test_a_disabled_model_has_no_objects() -> None:
    objects = scenario("models-values", "--set", "models.code.enabled=false")
    assert not [name for _, name in objects if name.startswith("inference-gateway-code")]
    assert ("Deployment", "inference-gateway-chat") in objects


def test_models_replace_the_tutorials_model() -> None:
    """Without entries its objects are rendered."""
    workload = {
        ("Deployment", "qwen"), ("Service", "qwen"), ("PodDisruptionBudget", "qwen"),
        ("InferencePool", "vllm-qwen-pool"), ("InferenceModel", "inferencemodel-qwen"),
        ("HTTPRoute", "qwen-backend"), ("HTTPRoute", "qwen-backend-no-inference"),
    }  # fmt: skip
    assert workload <= render("--set-json", "models={}").keys()
    assert not workload & scenario("models-values").keys()


def test_helm_test_sends_a_chat_for_each_model_to_both_ports() -> None:
    [container] = scenario("models-values")["Pod", "inference-gateway-test"]["spec"]["containers"]
    script = container["command"][-1]
    compile(script, "test", "exec")  # must not raise
    assert re.findall(r'for port in \((.*)\):\n +body = \{"model": "([^"]+)"', script) == [
        ("8080, 8081", "chat"), ("8080, 8081", "qwen/coder"),
    ]  # fmt: skip


def notes(tmp_path: Path, *flags: str) -> str:
    """The notes of an installation. `helm template` leaves them out, so a copy of the chart has them in a ConfigMap."""
    chart = shutil.copytree(CHART, tmp_path / "inference-gateway", ignore=shutil.ignore_patterns("*.tgz"))
    shutil.move(chart / "templates" / "NOTES.txt", chart / "files" / "notes.txt")
    (chart / "Chart.lock").unlink()
    # It compares values with those of the chart that is left out.
    (chart / "templates" / "gateway" / "controller.yaml").unlink()
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    about["dependencies"] = [part for part in about["dependencies"] if part["name"] != "gateway-helm"]
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    (chart / "templates" / "notes.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\n"
        'data: {text: {{ tpl (.Files.Get "files/notes.txt") . | toJson }}}\n'
    )
    text = helm("template", "inference-gateway", str(chart), "--show-only", "templates/notes.yaml", *flags)
    return yaml.safe_load(text)["data"]["text"]


def requested(text: str) -> Sequence[tuple[str, str]]:
    """Address and model of each chat in the notes."""
    chats = [shlex.split(line) for line in text.splitlines() if line.startswith("  curl -X POST")]
    return [(chat[3], yaml.safe_load(chat[-1])["model"]) for chat in chats]


def test_the_notes_print_the_curls_of_each_model(tmp_path: Path) -> None:
    text = notes(tmp_path, "--values", str(CHART / "ci" / "models-values.yaml"))
    addresses = [f"${{GATEWAY_HOST}}:{port}/v1/chat/completions" for port in (8080, 8081)]
    assert requested(text) == [(address, model) for model in ("chat", "qwen/coder") for address in addresses]
    assert "curl ${GATEWAY_HOST}:8081/v1/models" in text
    assert "gateway.defaultModel" in text
    for key in ("chat", "code"):
        assert f"rollout status -n default deployment/inference-gateway-{key}\n" in text


def test_the_notes_of_one_model_are_the_tutorials(tmp_path: Path) -> None:
    text = notes(tmp_path)
    assert [model for _, model in requested(text)] == ["/model/qwen", "/model/qwen"]
    assert "/v1/models" not in text


def test_every_value_of_an_entry_is_described_and_set_by_a_scenario() -> None:
    """An entry has the values of `vllm` and its own."""
    schema = yaml.safe_load((CHART / "values.schema.yaml").read_text())["properties"]
    entry = schema["models"]["additionalProperties"]["properties"]
    own = entry.keys() - schema["vllm"]["properties"].keys()
    assert own == {"adapters", "criticality", "routingStrategy", "settings", "failureMode"}
    assert schema["vllm"]["properties"].keys() <= entry.keys()
    used: set[str] = set()
    for name in SCENARIOS:
        values = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text())
        used |= {value for model in values["models"].values() for value in model}
    assert own <= used


def test_one_picker_serves_all_pools() -> None:
    """Its role is not limited to named pools, and no setting of it names one."""
    objects, single = scenario("models-values"), scenario("kind-values")
    role = ("ClusterRole", "inference-gateway-picker-envoy-gateway-system")
    assert objects[role] == single[role]
    assert environment(objects, "inference-gateway-ext-proc") == environment(single, "inference-gateway-ext-proc")
    assert len([kind for kind, _ in objects if kind == "NetworkPolicy"]) == 2
