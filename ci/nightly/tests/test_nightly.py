"""A nightly run, with fakes of `helm` and `benchmark-serving` on the PATH that record their calls."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest
from benchmark.compare.record import Record, save_record
from benchmark.settings.commands import read_compare
from nightly import cli, release
from nightly.comparison import arguments
from nightly.settings import Comparison, Settings, read_settings
from obstore.store import LocalStore

FOLDER = Path(__file__).parents[1]
URLS = {8080: "http://a:8080", 8081: "http://a:8081"}


class FakeCluster:
    """A cluster in memory, which records the calls of the job."""

    def __init__(self) -> None:
        self.namespaces = {"default"}
        self.calls: list[str] = []

    def has_namespace(self, name: str) -> bool:
        return name in self.namespaces

    def create(self, file: str, namespace: str) -> None:
        if not Path(file).exists():
            raise FileNotFoundError(file)
        self.calls.append(f"create {Path(file).name} in {namespace}")

    def is_ready(self, namespace: str) -> bool:
        """Ready at the second call."""
        self.calls.append(f"ready {namespace}")
        return self.calls.count(f"ready {namespace}") == 2

    def delete_namespace(self, name: str) -> None:
        self.calls.append(f"delete namespace {name}")
        self.namespaces.discard(name)

    def delete_cluster_scoped(self, webhook: str, cluster_role: str) -> None:
        self.calls.append(f"delete {webhook} {cluster_role}")

    def remove_class_finalizers(self, gateway_class: str) -> None:
        self.calls.append(f"remove finalizers of class {gateway_class}")

    def annotate_pool(self, _namespace: str, name: str, key: str, value: str) -> None:
        self.calls.append(f"annotate {name} {key.rpartition('/')[2]}={value}")

    def gateway_address(self, _namespace: str, _gateway: str) -> str:
        return "10.0.0.1"

    def running_pods(self, _namespace: str, _selector: str) -> Mapping[str, str]:
        return {"qwen-a": "10.0.1.1", "qwen-b": "10.0.1.2"}

    def log(self, _namespace: str, pod: str) -> str:
        return f"the log of {pod}"

    def state(self, _namespace: str) -> str:
        return "qwen-a: Pending"


TOOL = """#!{python}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
name = pathlib.Path(__file__).name
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
for argument in sys.argv[1:]:
    if argument.startswith(("--report=", "--history=")):
        path = pathlib.Path(argument.partition("=")[2])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(argument)
    if argument.startswith("--json=") and (here / "figures").exists():
        pathlib.Path(argument.partition("=")[2]).write_bytes((here / "figures").read_bytes())
print(name, "says hello")
sys.exit(int((here / (name + "-" + sys.argv[1])).exists()))
"""


class JobRun:
    """A run of the job in a folder: call `run`, then check the recorded calls."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self.keep = folder / "kept"
        (folder / "bin").mkdir()
        for name in ("helm", "benchmark-serving"):
            tool = folder / "bin" / name
            tool.write_text(TOOL.format(python=sys.executable))
            tool.chmod(0o755)

    def is_answering(self, url: str) -> bool:
        """Replaces the request to the Gateway, which answers at the second call."""
        self.cluster.calls.append(f"request {url}")
        return self.cluster.calls.count(f"request {url}") == 2

    def fails_at(self, tool: str, command: str) -> None:
        (self.folder / "bin" / f"{tool}-{command}").touch()

    def run(self, bucket: str = "", **additional: object) -> int | str:
        """Runs the job; returns its exit status or its last error message."""
        comparisons = [
            {"name": name, "strategy": strategy, "load": "--num-prompts 3"}
            for name, strategy in (("default", "DEFAULT"), ("prefix-cache", "PREFIX_CACHE"))
        ]
        settings = {"comparisons": comparisons, "namespace": "nightly", "keep": str(self.keep), "bucket": bucket}
        settings |= additional
        path = self.folder / "nightly.yaml"
        path.write_text(json.dumps(settings))
        with pytest.raises(SystemExit) as ended:
            cli.main(["--settings", str(path)])
        return ended.value.code or 0

    def finds(self, record: Record) -> None:
        """Sets the figures that the fake `benchmark-serving` writes."""
        save_record(self.folder / "bin" / "figures", record)

    @property
    def called(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "bin" / "calls").read_text().splitlines()]

    @property
    def commands(self) -> list[str]:
        return [" ".join(call[:2]) for call in self.called]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobRun:
    cluster = FakeCluster()
    job = JobRun(tmp_path, cluster)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cli, "Cluster", lambda: cluster)
    monkeypatch.setattr(release, "is_answering", job.is_answering)
    monkeypatch.setattr(release, "_POLL_S", 0.0)
    return job


REMOVED = [
    "remove finalizers of class nightly",
    "delete namespace nightly",
    "delete envoy-gateway-topology-injector.nightly nightly-gateway-helm-certgen:nightly",
]


def test_a_run_installs_tests_compares_both_strategies_and_removes(job: JobRun) -> None:
    assert job.run() == 0
    assert job.commands == [
        "helm upgrade", "helm test", "benchmark-serving compare", "benchmark-serving compare", "helm uninstall",
    ]  # fmt: skip
    assert [call for call in job.cluster.calls if not call.startswith("request")] == [
        "annotate vllm-qwen-pool routing-strategy=DEFAULT",
        "annotate vllm-qwen-pool routing-strategy=PREFIX_CACHE",
        *REMOVED,
    ]


def test_reports_are_in_a_folder_of_the_run_and_histories_in_a_shared_one(job: JobRun) -> None:
    job.run()
    [folder] = [found for found in job.keep.iterdir() if found.name != "history"]
    assert {file.name for file in folder.iterdir()} == {
        "default.html", "default.txt", "prefix-cache.html", "prefix-cache.txt",
    }  # fmt: skip
    assert {file.name for file in (job.keep / "history").iterdir()} == {"default.jsonl", "prefix-cache.jsonl"}


def test_a_regression_does_not_stop_later_comparisons_nor_the_removal(job: JobRun) -> None:
    job.fails_at("benchmark-serving", "compare")
    assert job.run() == 1
    assert job.commands.count("benchmark-serving compare") == 2
    assert job.cluster.calls[-len(REMOVED) :] == REMOVED


def test_a_failed_run_prints_its_problems_last(job: JobRun, capsys: pytest.CaptureFixture[str]) -> None:
    job.fails_at("benchmark-serving", "compare")
    regressions, missed = ("port 8081: TTFT p90 900 ms",), ("A threshold.",)
    job.finds(Record(datetime(2026, 1, 1), "random", 0, (), (), False, regressions, missed))
    job.run()
    last = capsys.readouterr().out.splitlines()[-3:]
    assert "prefix-cache: FAILED" in last[0]
    assert last[1:] == ["  Regression: port 8081: TTFT p90 900 ms", "  A threshold."]


def test_a_comparison_without_figures_is_reported_by_its_last_line(
    job: JobRun, capsys: pytest.CaptureFixture[str]
) -> None:
    job.fails_at("benchmark-serving", "compare")
    job.run()
    assert capsys.readouterr().out.splitlines()[-1] == "  exit status 1: benchmark-serving says hello"


def test_a_comparison_that_times_out_is_stopped_and_its_output_is_kept(
    job: JobRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (job.folder / "bin" / "benchmark-serving").write_text("#!/bin/sh\necho round 1 of 4\nexec sleep 600\n")
    assert job.run(compareTimeoutS=2) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "  stopped after 2 s: compareTimeoutS"
    assert {file.read_text() for file in job.keep.rglob("*.txt")} == {"round 1 of 4\n"}
    assert job.cluster.calls[-len(REMOVED) :] == REMOVED


@pytest.mark.parametrize("step", ["upgrade", "test"])
def test_a_failed_installation_compares_nothing_and_is_removed(job: JobRun, step: str) -> None:
    job.fails_at("helm", step)
    assert f"helm {step}" in str(job.run())
    assert "benchmark-serving compare" not in job.commands
    assert job.cluster.calls[-len(REMOVED) :] == REMOVED


def test_nothing_is_tested_before_both_ports_answer(job: JobRun) -> None:
    job.run()
    assert job.cluster.calls[:4] == ["request http://10.0.0.1:8080"] * 2 + ["request http://10.0.0.1:8081"] * 2


def test_a_failed_installation_reports_what_is_not_ready(job: JobRun) -> None:
    job.fails_at("helm", "upgrade")
    assert "qwen-a: Pending" in str(job.run())


def test_a_failed_helm_test_reports_its_log(job: JobRun) -> None:
    job.fails_at("helm", "test")
    assert "the log of nightly-test" in str(job.run())


def test_additional_objects_are_created_after_the_release_and_awaited(job: JobRun, tmp_path: Path) -> None:
    (tmp_path / "l20.yaml").touch()
    assert job.run(objects=[str(tmp_path / "l20.yaml")]) == 0
    assert job.cluster.calls[:3] == ["create l20.yaml in nightly", "ready nightly", "ready nightly"]
    assert job.commands[0] == "helm upgrade"


def test_objects_that_cannot_be_created_end_the_run_and_leave_nothing(job: JobRun) -> None:
    assert "absent.yaml" in str(job.run(objects=["absent.yaml"]))
    assert not job.cluster.has_namespace("nightly")


def test_objects_of_an_interrupted_run_are_removed_first(job: JobRun) -> None:
    job.cluster.namespaces.add("nightly")
    assert job.run() == 0
    assert job.commands[:2] == ["helm uninstall", "helm upgrade"]


def test_a_release_whose_uninstall_hook_fails_is_removed_without_it(job: JobRun) -> None:
    """Otherwise its class would remain, and the next run could not create it."""
    job.fails_at("helm", "uninstall")
    assert job.run() == 0
    assert job.called[-2:] == [
        ["helm", "uninstall", "nightly", "--namespace", "nightly", "--ignore-not-found"],
        ["helm", "uninstall", "nightly", "--namespace", "nightly", "--ignore-not-found", "--no-hooks"],
    ]
    assert job.cluster.calls[-len(REMOVED) :] == REMOVED


def test_the_uninstall_hook_runs_when_it_can(job: JobRun) -> None:
    job.run()
    assert job.called[-1] == ["helm", "uninstall", "nightly", "--namespace", "nightly", "--ignore-not-found"]


def test_the_release_affects_no_other_gateway_of_the_cluster(job: JobRun) -> None:
    """It has its own class and controller, and its picker watches only its namespace."""
    job.run()
    install = job.called[0]
    for setting in (
        "workload.namespace=nightly",
        "gateway.className=nightly",
        "gateway.controllerName=gateway.envoyproxy.io/nightly",
        "gateway-helm.config.envoyGateway.gateway.controllerName=gateway.envoyproxy.io/nightly",
        "picker.watchNamespace=nightly",
    ):
        assert setting in install


def test_with_a_bucket_the_history_is_fetched_and_all_reports_are_stored(
    job: JobRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder replaces the bucket; obstore has the same interface for both."""
    bucket = tmp_path / "bucket"
    (bucket / "history").mkdir(parents=True)
    (bucket / "history" / "older.jsonl").write_text("older")
    monkeypatch.setattr(cli, "from_url", lambda _url: LocalStore(bucket))
    assert job.run("s3://bucket/nightly") == 0
    assert (job.keep / "history" / "older.jsonl").read_text() == "older"
    names = {file.relative_to(bucket).as_posix() for file in bucket.rglob("*.*l") if file.is_file()}
    assert {"history/default.jsonl", "history/prefix-cache.jsonl", "history/older.jsonl"} <= names
    assert len([name for name in names if name.endswith(".html")]) == 2


@pytest.mark.parametrize("folder", ["manifests", "kind"])
def test_the_benchmark_accepts_the_flags_of_every_comparison(folder: str, tmp_path: Path) -> None:
    settings = read_settings(FOLDER / folder / "nightly.yaml")
    for comparison in settings.comparisons:
        given = arguments(comparison, settings, URLS, {"q": "http://q"}, tmp_path)
        read = read_compare(given[1:])
        assert [name for name, _ in read.targets] == ["port 8080", "port 8081"]
        assert read.fail_on_regression
        assert read.rounds == settings.rounds


def test_a_load_is_split_as_a_shell_does(tmp_path: Path) -> None:
    comparison = Comparison("a", "DEFAULT", "--header 'a=b c'")
    given = arguments(comparison, Settings((comparison,)), {8080: "u", 8081: "v"}, {}, tmp_path)
    assert "a=b c" in given
