"""The Lua script that reads a body's model, in a real Envoy: it reads what a server's parser reads."""

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_objects import OPTIONS, gateway, resources, route
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picker.xds.translate import translate
from static_envoy import free_ports, running_envoy
from test_envoy_accepts_routes import inlined

ONLY_MODEL = "the only model that a route serves"

text = st.one_of(st.text(max_size=8), st.text('\\"{}[]:,/ \n\u00e9\U0001f600', max_size=8), st.just("model"))
numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=12,
)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Yields the port of an Envoy that answers with the model's name, because no route serves it."""
    folder = tmp_path_factory.mktemp("envoy")
    listening, admin = free_ports()
    condition = {"name": "X-Gateway-Model-Name", "value": ONLY_MODEL}
    texts = [
        gateway({"name": "http", "port": listening}),
        route({"matches": [{"headers": [condition]}], "backendRefs": []}),
    ]
    whole = inlined(translate(resources(*texts), OPTIONS), folder)
    with running_envoy(whole, listening, admin, folder):
        yield listening


@pytest.fixture(scope="module")
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    opened = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    yield opened
    opened.close()


def found(connection: http.client.HTTPConnection, body: bytes, content_type: str = "application/json") -> str | None:
    """Returns the model that Envoy has read; None if it has read none."""
    connection.request("POST", "/v1/completions", body, {"content-type": content_type})
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    assert answer.status == 404
    if error["code"] == "route_not_found":
        return None
    return (
        error["message"].removeprefix("The model `").removesuffix("` does not exist or you do not have access to it.")
    )


def served(body: bytes) -> str | None:
    """Returns the model that a server reads; None if it rejects the body, or if the name cannot be a header's value."""
    document = json.loads(body)
    name = document.get("model") if isinstance(document, dict) else None
    if not isinstance(name, str) or not name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return None
    return name


fast = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fast
@given(
    st.lists(st.tuples(st.one_of(text, st.just("model")), st.one_of(values, names)), max_size=6),
    names,
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
)
def test_the_model_is_that_of_the_servers_parser(
    connection: http.client.HTTPConnection, pairs: list[tuple[str, Any]], name: str, is_ascii: bool, indent: Any
) -> None:
    """Also of repeated keys, in any place, with any escapes and white space."""
    separator = "\n" if indent else ""
    members = [*pairs[:3], ("model", name), *pairs[3:]]
    body = separator.join(
        [
            "{",
            ",".join(
                f"{json.dumps(key, ensure_ascii=is_ascii)} : {json.dumps(value, ensure_ascii=is_ascii, indent=indent)}"
                for key, value in members
            ),
            "}",
        ]
    ).encode()
    expected = served(body)
    escaped = any("\\" in json.dumps(key, ensure_ascii=is_ascii) for key, _ in members)
    assert found(connection, body) in ((None, expected) if escaped else (expected,))


@fast
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_answered(connection: http.client.HTTPConnection, before: bytes, after: bytes) -> None:
    """Their model is a name that the bytes contain, or none."""
    found(connection, before + b'"model":"x"' + after)
    found(connection, b'{"model": "' + after)


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (rb'{"model": "org\/name"}', "org/name"),
        (rb'{"model": "\u00e9\ud83d\ude00\"\\"}', '\u00e9\U0001f600"\\'),
        (rb'{"model": "a", "model": "b"}', "b"),
        (rb'{"x": "\\", "model": "a"}', "a"),
        (rb'{"x": "\\\"model\":", "model": "a"}', "a"),
        (rb'{"x": [{"model": "b"}], "model": "a"}', "a"),
        (b' \r\n\t{"model"\n:\t"a"}\n', "a"),
        (rb'{"model": "a", "mod\u0065l": "b"}', None),
        (rb'{"model": "\ud83d"}', None),
        (rb'{"model": "\ude00\ud83d"}', None),
        (rb'{"model": "a\u0000"}', None),
        (rb'{"model": "a\n"}', None),
        (b'{"model": "a\x00b"}', None),
        (b'{"model": ["a"]}', None),
        (b'{"model": "a", "model": 1}', None),
        (b'{"model": ""}', None),
        (b'[{"model": "a"}]', None),
        (b'"model"', None),
        (b'{"model": "a"', None),
        (b'{"model": "a', None),
        ('{"model": "a"}'.encode("utf-16"), None),
        (b'{"model": "%s"}' % (b"x" * 1024), "x" * 1024),
        (b'{"model": "%s"}' % (b"x" * 1025), None),
    ],
)
def test_names_and_what_is_none(connection: http.client.HTTPConnection, body: bytes, model: str | None) -> None:
    assert found(connection, body) == model


def form(*parts: bytes, boundary: bytes = b"xx") -> bytes:
    return b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts) + b"--%s--\r\n" % boundary


MODEL_PART = b'Content-Disposition: form-data; name="model"\r\n\r\na'


@pytest.mark.parametrize(
    ("body", "content_type", "model"),
    [
        (form(MODEL_PART), "multipart/form-data; boundary=xx", "a"),
        (form(MODEL_PART), 'Multipart/Form-Data; charset=utf-8; Boundary="xx"', "a"),
        (form(b"content-disposition:form-data;NAME=model\r\nx: y\r\n\r\na"), "multipart/form-data; boundary=xx", "a"),
        (form(MODEL_PART, MODEL_PART.replace(b"\na", b"\nb")), "multipart/form-data; boundary=xx", "b"),
        (form(MODEL_PART.replace(b'"model"', b'"x"; filename="model"')), "multipart/form-data; boundary=xx", None),
        (form(MODEL_PART.replace(b'"model"', b'"models"')), "multipart/form-data; boundary=xx", None),
        (form(MODEL_PART), "multipart/form-data", None),
        (form(MODEL_PART)[:60], "multipart/form-data; boundary=xx", None),
        (b"", "multipart/form-data; boundary=xx", None),
        (b"--xx--\r\n", "multipart/form-data; boundary=xx", None),
    ],
)  # fmt: skip
def test_the_field_of_a_form(
    connection: http.client.HTTPConnection, body: bytes, content_type: str, model: str | None
) -> None:
    assert found(connection, body, content_type) == model


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", " application/json ;x"]
)
def test_json_is_read_by_its_content_type(connection: http.client.HTTPConnection, content_type: str) -> None:
    assert found(connection, b'{"model": "a"}', content_type) == "a"


@pytest.mark.parametrize("content_type", ["text/plain", "application/jsonl", "application/grpc+json", ""])
def test_other_content_types_are_not_read(connection: http.client.HTTPConnection, content_type: str) -> None:
    connection.request("POST", "/v1/completions", b'{"model": "a"}', {"content-type": content_type})
    answer = connection.getresponse()
    # A gRPC call gets 200 with a gRPC status.
    assert (answer.status, answer.read()) in ((404, b""), (200, b""))


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": "' + b"\\" * 1_000_000,
        b'{"x": ' + b"[" * 1_000_000,
        b'{"x": "' + b'\\"' * 500_000 + b'", "model": "a"}',
        b'{"model": "' + b"\\u0061" * 170_000 + b'"}',
        b"{" + b'"model": "a",' * 80_000 + b'"x": 1}',
    ],
    ids=["backslashes", "brackets", "quotes", "escapes", "keys"],
)
def test_an_attack_costs_linear_time(connection: http.client.HTTPConnection, body: bytes) -> None:
    """A megabyte takes well below a second. Quadratic time would take minutes."""
    started_s = time.monotonic()
    found(connection, body)
    assert time.monotonic() - started_s < 5.0


def test_bodies_whose_copies_are_freed_at_once_are_read(connection: http.client.HTTPConnection) -> None:
    """The collection of garbage runs inside the script, while Envoy's objects are in use."""
    body = b'{"x": "%s", "model": "a"}' % (b"x" * (1 << 20))
    assert [found(connection, body) for _ in range(5)] == ["a"] * 5
