"""The output of `picker validate` for the tutorial's files, unchanged and broken in ten usual ways."""

from pathlib import Path

import pytest
from manifests import TUTORIAL
from picker.resources.validate import Report, validate_files


def lines(report: Report, folder: Path) -> list[str]:
    return [line.replace(f"{folder}/", "") for line in report.lines()]


def test_the_tutorials_files_are_reported_object_by_object() -> None:
    """The objects that are read, those that are skipped, and the Service that the reader creates with the model
    servers."""
    assert lines(validate_files([TUTORIAL]), TUTORIAL) == [
        "ok       GatewayClass qwen-inference-gateway-class  (inference-gateway.yaml)",
        "ok       Gateway default/qwen-inference-gateway  (inference-gateway.yaml)",
        "ok       HTTPRoute default/qwen-backend  (inference-gateway.yaml)",
        "ok       HTTPRoute default/qwen-backend-no-inference  (inference-gateway.yaml)",
        "ok       BackendTrafficPolicy default/backend-timeout  (inference-gateway.yaml)",
        "ok       InferencePool default/vllm-app-pool  (inference-pool-strategy.yaml)",
        "ok       InferencePool default/vllm-qwen-pool  (inference-pool.yaml)",
        "ok       InferenceModel default/inferencemodel-qwen  (inference-pool.yaml)",
        "skipped  Deployment default/vllm-benchmark  (vllm-benchmark.yaml; not an object of the gateway)",
        "warning  inference-gateway.yaml:40: HTTPRoute default/qwen-backend-no-inference: "
        "spec.rules[0].backendRefs[0]: there is no Service default/qwen",
        "8 objects ok, 0 errors, 1 warning",
    ]


GATEWAY, POOL, STRATEGY = "inference-gateway.yaml", "inference-pool.yaml", "inference-pool-strategy.yaml"
BROKEN = [
    (
        POOL, "  targetPortNumber", "\ttargetPortNumber",
        "inference-pool.yaml:6: not YAML: found a tab; allowed for indenting are spaces",
    ),
    (
        POOL, "targetPortNumber", "targetPort",
        "inference-pool.yaml:6: InferencePool default/vllm-qwen-pool: spec.targetPort: unknown field; did you"
        " mean targetPortNumber? (allowed are selector, targetPortNumber, extensionRef)",
    ),
    (
        POOL, "Number: 8000", 'Number: "8000"',
        "inference-pool.yaml:6: InferencePool default/vllm-qwen-pool: spec.targetPortNumber: found '8000'; "
        "allowed is a whole number, without quotes",
    ),
    (
        POOL, "targetPortNumber: 8000", "targetPorts: [{number: 8000}]",
        "inference-pool.yaml:6: InferencePool default/vllm-qwen-pool: spec.targetPorts: unknown field; did "
        "you mean targetPortNumber? (allowed are selector, targetPortNumber, extensionRef)",
    ),
    (
        POOL, "v1alpha2", "v1alpha1",
        "inference-pool.yaml:1: InferencePool default/vllm-qwen-pool: apiVersion: found "
        "'inference.networking.x-k8s.io/v1alpha1'; allowed: inference.networking.x-k8s.io/v1alpha2, "
        "inference.networking.k8s.io/v1",
    ),
    (
        POOL, "criticality: Critical", "criticality: High",
        "inference-pool.yaml:18: InferenceModel default/inferencemodel-qwen: spec.criticality: found 'High'; "
        "allowed: 'Critical', 'Standard' or 'Sheddable'",
    ),
    (
        STRATEGY, '"DEFAULT"', "prefix_cache",
        "inference-pool-strategy.yaml:6: InferencePool default/vllm-app-pool: "
        "metadata.annotations[inference.networking.x-k8s.io/routing-strategy]: found 'prefix_cache'; allowed:"
        " 'DEFAULT', 'PREFIX_CACHE', 'LEAST_REQUEST', 'ROUND_ROBIN' or 'RANDOM'",
    ),
    (
        GATEWAY, "requestTimeout: 1h", "requestTimeout: 60",
        "inference-gateway.yaml:69: BackendTrafficPolicy default/backend-timeout: "
        "spec.timeout.http.requestTimeout: found 60; allowed are durations such as 1h, 1m30s, 10s, 500ms",
    ),
    (
        GATEWAY, "rules:\n  -", "rules:\n  - filters: [{type: URLRewrite}]\n   ",
        "inference-gateway.yaml:31: HTTPRoute default/qwen-backend: spec.rules[0].filters[0].type: found "
        "'URLRewrite'; the gateway on one machine does not serve it",
    ),
    (
        GATEWAY, "protocol: HTTP", "protocol: HTTPS",
        "inference-gateway.yaml:16: Gateway default/qwen-inference-gateway: spec.listeners[0].protocol: found"
        " 'HTTPS'; the gateway on one machine does not serve it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "said"), BROKEN)
def test_each_broken_copy_is_reported_in_one_sentence(file: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    """The file, the line, the object, the field, what was found and what is allowed."""
    text = (TUTORIAL / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    assert [line for line in lines(validate_files([tmp_path]), tmp_path) if line.startswith("error")] == [
        f"error    {said}"
    ]


def test_files_and_folders_may_be_mixed(tmp_path: Path) -> None:
    """Folders are walked. Hidden files and other suffixes are left out."""
    (tmp_path / "deep").mkdir()
    for name in ("deep/a.yml", ".hidden.yaml", "notes.txt"):
        (tmp_path / name).write_text("kind: 3\n")
    report = validate_files([tmp_path, TUTORIAL / POOL])
    assert [problem.file for problem in report.problems] == [str(tmp_path / "deep/a.yml")]
    assert "2 objects ok, 1 error, 0 warnings" in list(report.lines())


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file, or one that is not text."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    problems = validate_files([tmp_path / "none.yaml", tmp_path / "binary.yaml"]).problems
    assert [str(item) for item in problems] == [
        f"{tmp_path}/none.yaml: cannot be read: No such file or directory",
        f"{tmp_path}/binary.yaml: cannot be read: it is not UTF-8 (byte 1)",
    ]
