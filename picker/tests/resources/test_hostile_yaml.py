"""YAML that is small in bytes and large in values, or that PyYAML cannot construct."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_time import assert_linear
from picker.resources import manifest_files as files_module
from picker.resources.manifest_files import read_bounded
from picker.resources.parse import Parsed, parse
from picker.resources.problems import Problem
from picker.resources.references import reference_warnings
from picker.resources.validate import Report, read_manifest
from picker.sources.endpoints_file import parse_endpoints

POOL = "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: a}\n"


def pool_of_name(name: str) -> str:
    return POOL.replace("name: a", f"name: {name}")


def nested_aliases(levels: int, width: int) -> str:
    """A list of `width ** levels` texts, as `*a9`."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


def nested_merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}" for level in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


def route_of_aliases(width: int) -> str:
    many = {item: ", ".join([f"*{item}"] * width) for item in "rmh"}
    return (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec:\n  rules: "
        f"[&r {{matches: [&m {{headers: [&h {{name: 1, value: 2}}, {many['h']}]}}, {many['m']}]}}, {many['r']}]\n"
    )


LARGE_TO_READ = {
    "aliases in unknown fields": POOL + nested_aliases(9, 9),
    "aliases in a field": POOL + nested_aliases(9, 9) + "spec: {targetPorts: *a9}\n",
    "aliases for a name": nested_aliases(9, 9) + pool_of_name("*a9"),
    "merges": nested_merges(40) + POOL,
    "aliases in a route": route_of_aliases(300),
}
NOT_TAKEN = {
    "a list that holds itself": POOL + "spec: &x [*x]\n",
    "an integer of thousands of digits": pool_of_name("9" * 5000),
    "a hexadecimal integer": pool_of_name("0x" + "f" * 5000),
    "sexagesimal digits": pool_of_name(":".join(["59"] * 3000)),
    "a sexagesimal fraction": pool_of_name(":".join(["59"] * 3000) + ".5"),
    "an empty integer": pool_of_name("!!int ''"),
    "an empty fraction": pool_of_name("!!float ''"),
    "a boolean that is none": pool_of_name("!!bool abc"),
    "a time that is none": pool_of_name("!!timestamp abc"),
    "half of a character": pool_of_name('"\\uD800"'),
}


def shown(text: str) -> list[str]:
    """The output of `picker validate` for `text`."""
    results = parse(text, "file")
    warnings = reference_warnings([item for item in results if isinstance(item, Parsed)])
    lines = list(Report(tuple(results), tuple(warnings)).lines())
    for line in lines:
        line.encode()
    return lines


@pytest.mark.parametrize("kind", LARGE_TO_READ)
def test_aliases_cannot_make_a_document_large(kind: str) -> None:
    [*_, problem, _counts] = shown(LARGE_TO_READ[kind])
    assert "aliases" in problem
    assert isinstance(parse_endpoints(LARGE_TO_READ[kind], "file"), list)


@pytest.mark.parametrize("kind", NOT_TAKEN)
def test_a_value_that_cannot_be_read_is_a_problem(kind: str) -> None:
    assert any(line.startswith("error") for line in shown(NOT_TAKEN[kind]))
    assert isinstance(parse_endpoints(NOT_TAKEN[kind], "file"), list)


def test_usual_aliases_are_read() -> None:
    text = POOL + "spec: {selector: {matchLabels: &labels {app: a}}, targetPorts: [{number: 1}]}\n"
    other = text.replace("name: a", "name: b").replace("&labels {app: a}", "{<<: {app: b}}")
    assert all(isinstance(item, Parsed) for item in parse(f"{text}---\n{other}", "file"))


@given(
    st.sampled_from(["int", "float", "bool", "null", "timestamp", "binary", "set", "omap", "pairs", "seq", "map"]),
    st.text(max_size=10) | st.just("59:" * 2000 + "1") | st.just("1" * 5000),
)
def test_any_value_with_any_tag_is_read_or_a_problem(tag: str, value: str) -> None:
    quoted = value.replace("'", "''")
    shown(pool_of_name(f"!!{tag} '{quoted}'"))
    shown(pool_of_name(f"!!{tag} {value}"))  # must not raise


def test_names_of_objects_are_printable_and_shortened() -> None:
    [line, _counts] = shown(f'apiVersion: v1\nkind: Deployment\nmetadata: {{name: "\\e[2J{"x" * 10_000}"}}\n')
    assert "\x1b" not in line
    assert len(line) < 600


def test_the_problems_of_one_object_are_bounded() -> None:
    unknown = ", ".join(f"{'k' * 100}{number}: 1" for number in range(5000))
    lines = shown(f"{POOL}spec: {{{unknown}}}\n")
    assert len(lines) < 110
    assert max(map(len, lines)) < 2000


def models(count: int) -> str:
    return "---\n".join(
        "apiVersion: inference.networking.x-k8s.io/v1alpha2\nkind: InferenceModel\n"
        f"metadata: {{name: m{number}}}\nspec: {{modelName: m{number}, poolRef: {{name: p}}}}\n"
        for number in range(count)
    )


def test_the_cost_of_references_of_many_models_is_linear() -> None:
    def parsed(count: int) -> list[Parsed]:
        return [item for item in parse(models(count), "file") if isinstance(item, Parsed)]

    assert_linear(reference_warnings, parsed, 100)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 100)
    file = tmp_path / "large.yaml"
    file.write_text("#" * 101)
    [problem] = read_manifest(file)
    assert isinstance(problem, Problem)
    assert "more than 100 bytes" in problem.message
    file.write_text("#" * 100)
    assert read_bounded(file) == "#" * 100


def test_a_file_without_an_end_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 100)
    [problem] = read_manifest(Path(os.devnull).with_name("zero"))
    assert "more than 100 bytes" in str(problem)
