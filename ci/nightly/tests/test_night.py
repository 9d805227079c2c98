"""The course of a night, with a `helm` and a `benchmark-serving` on the PATH that write down how they were called."""

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
from nightly.comparing import arguments
from nightly.settings import Comparison, Settings, read_settings
from obstore.store import LocalStore

FOLDER = Path(__file__).parents[1]
URLS = {8080: "http://a:8080", 8081: "http://a:8081"}


class FakeCluster:
    """What a night asks of Kubernetes, answered from memory."""

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
        """The second time."""
        self.calls.append(f"ready {namespace}")
        return self.calls.count(f"ready {namespace}") == 2

    def delete_namespace(self, name: str) -> None:
        self.calls.append(f"delete namespace {name}")
        self.namespaces.discard(name)

    def delete_outside(self, webhook: str, cluster_role: str) -> None:
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


class Night:
    """A night in a folder: `run` it, then look at what was called."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self.keep = folder / "kept"
        (folder / "bin").mkdir()
        for name in ("helm", "benchmark-serving"):
            tool = folder / "bin" / name
            tool.write_text(TOOL.format(python=sys.executable))
            tool.chmod(0o755)

    def asked(self, url: str) -> bool:
        """In place of asking the Gateway: the second time it answers."""
        self.cluster.calls.append(f"ask {url}")
        return self.cluster.calls.count(f"ask {url}") == 2

    def fails_at(self, tool: str, command: str) -> None:
        (self.folder / "bin" / f"{tool}-{command}").touch()

    def run(self, bucket: str = "", **more: object) -> int | str:
        """The exit status, or the word that the program ends with."""
        comparisons = [
            {"name": name, "strategy": strategy, "load": "--num-prompts 3"}
            for name, strategy in (("default", "DEFAULT"), ("prefix-cache", "PREFIX_CACHE"))
        ]
        settings = {"comparisons": comparisons, "namespace": "night", "keep": str(self.keep), "bucket": bucket}
        settings |= more
        path = self.folder / "nightly.yaml"
        path.write_text(json.dumps(settings))
        with pytest.raises(SystemExit) as ended:
            cli.main(["--settings", str(path)])
        return ended.value.code or 0

    def finds(self, record: Record) -> None:
        """What `benchmark-serving` leaves for whoever asks for its figures."""
        save_record(self.folder / "bin" / "figures", record)

    @property
    def called(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "bin" / "calls").read_text().splitlines()]

    @property
    def commands(self) -> list[str]:
        return [" ".join(call[:2]) for call in self.called]


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    cluster = FakeCluster()
    made = Night(tmp_path, cluster)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cli, "Cluster", lambda: cluster)
    monkeypatch.setattr(release, "answers", made.asked)
    monkeypatch.setattr(release, "_POLL_S", 0.0)
    return made


REMOVED = [
    "remove finalizers of class night",
    "delete namespace night",
    "delete envoy-gateway-topology-injector.night night-gateway-helm-certgen:night",
]


def test_a_night_installs_tests_compares_under_both_strategies_and_removes(night: Night) -> None:
    assert night.run() == 0
    assert night.commands == [
        "helm upgrade", "helm test", "benchmark-serving compare", "benchmark-serving compare", "helm uninstall",
    ]  # fmt: skip
    assert [call for call in night.cluster.calls if not call.startswith("ask")] == [
        "annotate vllm-qwen-pool routing-strategy=DEFAULT",
        "annotate vllm-qwen-pool routing-strategy=PREFIX_CACHE",
        *REMOVED,
    ]


def test_reports_are_in_a_folder_of_the_night_and_histories_beside_all_nights(night: Night) -> None:
    night.run()
    [folder] = [each for each in night.keep.iterdir() if each.name != "history"]
    assert {each.name for each in folder.iterdir()} == {
        "default.html", "default.txt", "prefix-cache.html", "prefix-cache.txt",
    }  # fmt: skip
    assert {each.name for each in (night.keep / "history").iterdir()} == {"default.jsonl", "prefix-cache.jsonl"}


def test_a_regression_is_told_after_everything_has_been_compared_and_removed(night: Night) -> None:
    night.fails_at("benchmark-serving", "compare")
    assert night.run() == 1
    assert night.commands.count("benchmark-serving compare") == 2
    assert night.cluster.calls[-len(REMOVED) :] == REMOVED


def test_a_night_that_was_not_good_ends_with_what_was_wrong(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    night.fails_at("benchmark-serving", "compare")
    night.finds(Record(datetime(2026, 1, 1), "random", 0, (), (), False, ("port 8081: TTFT p90 900 ms",), ("An aim.",)))
    night.run()
    last = capsys.readouterr().out.splitlines()[-3:]
    assert "prefix-cache: NOT GOOD" in last[0]
    assert last[1:] == ["  Regression: port 8081: TTFT p90 900 ms", "  An aim."]


def test_a_comparison_without_figures_is_told_by_its_last_word(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    night.fails_at("benchmark-serving", "compare")
    night.run()
    assert capsys.readouterr().out.splitlines()[-1] == "  exit status 1: benchmark-serving says hello"


def test_a_comparison_that_does_not_end_is_stopped_and_what_it_said_is_kept(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    (night.folder / "bin" / "benchmark-serving").write_text("#!/bin/sh\necho round 1 of 4\nexec sleep 600\n")
    assert night.run(compareTimeoutS=2) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "  stopped after 2 s: compareTimeoutS"
    assert {each.read_text() for each in night.keep.rglob("*.txt")} == {"round 1 of 4\n"}
    assert night.cluster.calls[-len(REMOVED) :] == REMOVED


@pytest.mark.parametrize("step", ["upgrade", "test"])
def test_a_night_that_does_not_come_up_compares_nothing_and_removes_what_there_is(night: Night, step: str) -> None:
    night.fails_at("helm", step)
    assert f"helm {step}" in str(night.run())
    assert "benchmark-serving compare" not in night.commands
    assert night.cluster.calls[-len(REMOVED) :] == REMOVED


def test_nothing_is_tested_before_both_ports_answer(night: Night) -> None:
    night.run()
    assert night.cluster.calls[:4] == ["ask http://10.0.0.1:8080"] * 2 + ["ask http://10.0.0.1:8081"] * 2


def test_an_installation_that_fails_tells_what_is_not_ready(night: Night) -> None:
    night.fails_at("helm", "upgrade")
    assert "qwen-a: Pending" in str(night.run())


def test_a_test_that_fails_tells_what_it_said(night: Night) -> None:
    night.fails_at("helm", "test")
    assert "the log of night-test" in str(night.run())


def test_servers_of_another_card_are_made_after_the_release_and_waited_for(night: Night, tmp_path: Path) -> None:
    (tmp_path / "l20.yaml").touch()
    assert night.run(objects=[str(tmp_path / "l20.yaml")]) == 0
    assert night.cluster.calls[:3] == ["create l20.yaml in night", "ready night", "ready night"]
    assert night.commands[0] == "helm upgrade"


def test_objects_that_cannot_be_made_end_the_night_and_leave_nothing(night: Night) -> None:
    assert "absent.yaml" in str(night.run(objects=["absent.yaml"]))
    assert not night.cluster.has_namespace("night")


def test_what_an_interrupted_night_has_left_is_removed_first(night: Night) -> None:
    night.cluster.namespaces.add("night")
    assert night.run() == 0
    assert night.commands[:2] == ["helm uninstall", "helm upgrade"]


def test_a_release_whose_uninstall_hook_fails_is_removed_without_it(night: Night) -> None:
    """Otherwise its class would remain, and the next run could not create it."""
    night.fails_at("helm", "uninstall")
    assert night.run() == 0
    assert night.called[-2:] == [
        ["helm", "uninstall", "night", "--namespace", "night", "--ignore-not-found"],
        ["helm", "uninstall", "night", "--namespace", "night", "--ignore-not-found", "--no-hooks"],
    ]
    assert night.cluster.calls[-len(REMOVED) :] == REMOVED


def test_the_uninstall_hook_runs_when_it_can(night: Night) -> None:
    night.run()
    assert night.called[-1] == ["helm", "uninstall", "night", "--namespace", "night", "--ignore-not-found"]


def test_the_release_touches_no_other_gateway_of_the_cluster(night: Night) -> None:
    """Its class and controller are its own, and its picker looks at its own namespace."""
    night.run()
    install = night.called[0]
    for setting in (
        "workload.namespace=night",
        "gateway.className=night",
        "gateway.controllerName=gateway.envoyproxy.io/night",
        "gateway-helm.config.envoyGateway.gateway.controllerName=gateway.envoyproxy.io/night",
        "picker.watchNamespace=night",
    ):
        assert setting in install


def test_with_a_bucket_the_history_comes_from_there_and_everything_goes_there(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands for the bucket: both are object stores to the program."""
    bucket = tmp_path / "bucket"
    (bucket / "history").mkdir(parents=True)
    (bucket / "history" / "older.jsonl").write_text("older")
    monkeypatch.setattr(cli, "from_url", lambda _url: LocalStore(bucket))
    assert night.run("s3://bucket/nightly") == 0
    assert (night.keep / "history" / "older.jsonl").read_text() == "older"
    names = {each.relative_to(bucket).as_posix() for each in bucket.rglob("*.*l") if each.is_file()}
    assert {"history/default.jsonl", "history/prefix-cache.jsonl", "history/older.jsonl"} <= names
    assert len([name for name in names if name.endswith(".html")]) == 2


@pytest.mark.parametrize("folder", ["manifests", "kind"])
def test_the_benchmark_takes_the_flags_of_every_comparison(folder: str, tmp_path: Path) -> None:
    """A night ends in a word about a flag otherwise."""
    settings = read_settings(FOLDER / folder / "nightly.yaml")
    for comparison in settings.comparisons:
        given = arguments(comparison, settings, URLS, {"q": "http://q"}, tmp_path)
        read = read_compare(given[1:])
        assert [name for name, _ in read.targets] == ["port 8080", "port 8081"]
        assert read.fail_on_regression
        assert read.rounds == settings.rounds


def test_a_load_is_taken_apart_as_a_shell_would(tmp_path: Path) -> None:
    comparison = Comparison("a", "DEFAULT", "--header 'a=b c'")
    given = arguments(comparison, Settings((comparison,)), {8080: "u", 8081: "v"}, {}, tmp_path)
    assert "a=b c" in given
