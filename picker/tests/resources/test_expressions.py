"""Regular expressions are validated as Envoy validates them."""

import subprocess
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.json_format import MessageToJson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picker.commands.standalone.envoy_process import envoy_binary
from picker.resources.expressions import expression_problem
from picker.xds.bootstrap import bootstrap
from picker.xds.protobuf import pack_any
from picker.xds.route_expressions import NEVER, without_rejected_expressions

REJECTED = [
    "",
    "[",
    "(?=a)",
    "(?!a)",
    r"(a)\1",
    "a{1001}",
    "((a{100}){100}){100}",
    "(?P>x)",
    r"\pX",
    "(?<!a)b",
    "a++",
    r"\x{100}",
]
TAKEN = ["a", "/v[0-9]+/.*", "(?i)a", "(?P<n>a)", "a{1000}", "(a{30}){30}", r"\pL", "[^/]*", "a|", NEVER]

PIECES = st.sampled_from(
    ["a", "é", "(", ")", "[", "]", "{2}", "{1000}", "*", "+", "?", "|", "\\", "^", "$", "(?", "\\Q"]
)
EXPRESSIONS = st.one_of(st.text(max_size=12), st.lists(PIECES, max_size=8).map("".join))


def envoy_accepts(folder: Path, expression: str) -> bool:
    created = bootstrap_pb2.Bootstrap()
    created.layered_runtime.CopyFrom(bootstrap("127.0.0.1", 1, folder).layered_runtime)
    created.static_resources.listeners.append(_listener(expression))
    path = folder / "bootstrap.json"
    path.write_text(MessageToJson(created))
    command = [envoy_binary(None), "--mode", "validate", "--log-level", "off", "--config-path", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _listener(expression: str) -> listener_pb2.Listener:
    router = hcm_pb2.HttpFilter(name="router", typed_config=pack_any(router_pb2.Router()))
    manager = hcm_pb2.HttpConnectionManager(stat_prefix="x", http_filters=[router])
    host = manager.route_config.virtual_hosts.add(name="h", domains=["*"])
    route = host.routes.add()
    route.match.safe_regex.regex = expression
    route.direct_response.status = 200
    created = listener_pb2.Listener(name="l")
    created.address.socket_address.address = "127.0.0.1"
    created.address.socket_address.port_value = 1
    created.filter_chains.add().filters.add(name="hcm", typed_config=pack_any(manager))
    return created


@pytest.mark.parametrize("expression", REJECTED)
def test_what_envoy_rejects_is_a_problem(expression: str, tmp_path: Path) -> None:
    assert expression_problem(expression)
    assert not envoy_accepts(tmp_path, expression)


@pytest.mark.parametrize("expression", TAKEN)
def test_an_expression_that_envoy_accepts_is_no_problem(expression: str, tmp_path: Path) -> None:
    assert expression_problem(expression) is None
    assert envoy_accepts(tmp_path, expression)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EXPRESSIONS)
def test_envoy_accepts_every_expression_without_a_problem(tmp_path: Path, expression: str) -> None:
    assert envoy_accepts(tmp_path, expression) == (expression_problem(expression) is None)


def test_a_route_without_rejected_expressions_is_unchanged() -> None:
    route = route_components_pb2.Route()
    route.match.safe_regex.regex = "/v1/.*"
    assert without_rejected_expressions(route) == (route, ())


@pytest.mark.parametrize("place", ["path", "header", "query", "rewrite"])
def test_a_route_with_a_rejected_expression_matches_nothing(place: str) -> None:
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    match place:
        case "path":
            route.match.safe_regex.regex = ""
            route.match.safe_regex.SetInParent()
        case "header":
            route.match.headers.add(name="x").string_match.safe_regex.regex = "(?=a)"
        case "query":
            route.match.query_parameters.add(name="x").string_match.safe_regex.regex = "(?=a)"
        case _:
            route.route.regex_rewrite.pattern.regex = "(?=a)"
    created, problems = without_rejected_expressions(route)
    assert len(problems) == 1
    assert created.match.safe_regex.regex == NEVER
    assert without_rejected_expressions(created) == (created, ())
