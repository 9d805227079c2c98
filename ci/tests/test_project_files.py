"""Consistency of the repository's files."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECTS = sorted([ROOT / "pyproject.toml", *ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")])


def script(name: str) -> ModuleType:
    """Loads a script of `ci/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_place_has_the_version_of_the_chart() -> None:
    version = script("version")
    assert version.differences(version.source()) == []


def test_a_place_with_another_version_is_reported() -> None:
    files = {line.partition(":")[0] for line in script("version").differences("9.9.9")}
    assert {"pyproject.toml", "uv.lock", "README.md", "picker/pyproject.toml", "e2e/cluster/conftest.py"} <= files


@pytest.mark.parametrize("file", PROJECTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_package_names_its_licence_and_readme(file: Path) -> None:
    project = tomllib.loads(file.read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["authors"] == [{"name": "Inference Gateway authors"}]
    assert (file.parent / project["readme"]).is_file()


def test_nothing_tracked_reads_files_outside_the_repository() -> None:
    """`.ci/run` is excepted: it may use a cluster recipe next to the checkout, and works without one."""
    found = subprocess.run(
        ["git", "grep", "-nE", r"\.\./shared|\"shared\" /|shared/(vllm-reference|traces|tutorial)"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode > 1:
        pytest.skip("not a git checkout")
    lines = [line for line in found.stdout.splitlines() if not line.startswith((".ci/run:", "ci/tests/"))]
    assert lines == []


@pytest.mark.parametrize("file", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda file: file.name)
def test_workflows_name_a_version_of_every_action(file: Path) -> None:
    used = re.findall(r"uses: *(\S+)", file.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@(v\d+(\.\d+)*|[0-9a-f]{40})", action)] == []


@pytest.mark.parametrize("file", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda file: file.name)
def test_workflows_limit_their_token(file: Path) -> None:
    assert "permissions" in yaml.safe_load(file.read_text())


def test_the_charts_schema_and_readme_are_current() -> None:
    generator = script("chart_schema")
    assert (generator.CHART / "values.schema.json").read_text() == generator.rendered()
    assert (generator.CHART / "README.md").read_text() == generator.readme()


def test_a_word_of_the_glossary_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("The metrics tell the picker.\n")
    codespell = Path(sys.executable).with_name("codespell")
    found = subprocess.run(
        [codespell, "--builtin", "", "-D", ROOT / "ci/glossary/words.txt", page],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, "tell ==> " in found.stdout) == (65, True)
