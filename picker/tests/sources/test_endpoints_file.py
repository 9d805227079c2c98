"""The endpoints file: its content, and its problems."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.resources.problems import Problem
from picker.sources.endpoints_file import parse_endpoints, read_endpoints
from picker.sources.inventory import ModelServer


def servers(text: str) -> tuple[ModelServer, ...]:
    found = parse_endpoints(text, "e.yaml")
    assert isinstance(found, tuple), found
    return found


def test_an_entry_has_name_address_port_and_labels() -> None:
    """In its order."""
    text = (
        "endpoints:\n- {name: b, address: 10.0.0.2, port: 8001, labels: {app: qwen}}\n- {name: a, address: 10.0.0.1}\n"
    )
    assert servers(text) == (
        ModelServer("b", "default", "10.0.0.2", 8001, {"app": "qwen"}),
        ModelServer("a", "default", "10.0.0.1", None, {}),
    )


def test_an_ipv6_address_is_normalized() -> None:
    """One address has one text."""
    [server] = servers("endpoints: [{name: a, address: 'FD00:0:0::1'}]")
    assert server.address == "fd00::1"


def test_one_address_may_have_several_ports_and_one_name_several_namespaces() -> None:
    """Servers on one machine."""
    lines = ("{name: a, address: 1.2.3.4, port: 1}", "{name: a, namespace: b, address: 1.2.3.4, port: 2}")
    assert len(servers(f"endpoints: [{', '.join(lines)}]")) == 2


def test_an_empty_list_is_valid() -> None:
    """All servers may be down."""
    assert servers("endpoints: []") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "e.yaml: found 0 documents; allowed is one with `endpoints:`"),
        ("a: 1\n---\nb: 1\n", "e.yaml: found 2 documents"),
        ("endpoints: {}", "e.yaml:1: endpoints: found {}; allowed is a list"),
        ("- a\n", "e.yaml:1: found ['a']; allowed is a mapping"),
        ("hosts: []", "e.yaml:1: hosts: unknown field"),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, prt: 1}",
            "e.yaml:2: endpoints[0].prt: unknown field; did you mean port?",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4}\n- {name: a, address: 1.2.3.5}",
            "e.yaml:3: endpoints[1].name: found 'a' a second time",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4}\n- {name: b, address: 1.2.3.4}",
            "e.yaml:3: endpoints[1].address: found 1.2.3.4 a second time",
        ),
        (
            "endpoints: [{name: a, address: '::1', port: 1}, {name: b, address: '0:0::1', port: 1}]",
            "endpoints[1].address: found ::1:1 a second time",
        ),
        ("endpoints: [{name: a, address: 1.2.3.4, port: 0}]", "endpoints[0].port: found 0; allowed: at least 1"),
        (
            "endpoints: [{name: a, address: localhost}]",
            "endpoints[0].address: found 'localhost'; allowed is an IP address",
        ),
        ("endpoints: [{name: a, address: 1.2.3.4:80}]", "found '1.2.3.4:80'; allowed is an IP address"),
        ("endpoints: [{name: A, address: 1.2.3.4}]", "endpoints[0].name: found 'A'; allowed are lower-case letters"),
        ("endpoints: [{name: a, address: 1.2.3.4, labels: {app: -}}]", "endpoints[0].labels.app: found '-'"),
        ("endpoints: [", "e.yaml:1: not YAML"),
    ],
)
def test_an_error_names_line_field_and_allowed_values(text: str, said: str) -> None:
    """Line, field, found, allowed."""
    found = parse_endpoints(text, "e.yaml")
    assert isinstance(found, list)
    assert said in "\n".join(map(str, found))


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """A missing file, or one that is not text."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff")
    for name, said in (("none", "No such file or directory"), ("binary", "it is not UTF-8")):
        [problem] = read_endpoints(tmp_path / f"{name}.yaml")
        assert said in str(problem)


@given(st.text(max_size=200) | st.sampled_from(["[]", "3", "null", "{}", "'x'", "&a [*a]"]).map("endpoints: {}".format))
def test_any_text_is_read_or_a_problem(text: str) -> None:
    """Nothing is raised."""
    found = parse_endpoints(text, "e.yaml")
    assert isinstance(found, tuple) or all(isinstance(item, Problem) for item in found)
