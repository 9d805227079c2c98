"""Replacing a model's name in a JSON text without a change of any other byte."""

import json
from time import process_time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from picker.requestcontrol.model_field import model_spans, rename_request, replace_model

OLD, NEW = "m", "m-v2"

names = st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
keys = st.sampled_from(["model", "response", "message", 'x"model', "a"]) | st.text(max_size=4)
values = st.recursive(
    scalars | st.just(OLD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=5)


@st.composite
def written(draw: st.DrawFn, value: object) -> str:
    """JSON text of a value as any client may write it, with spaces and needless escapes."""
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    match value:
        case str():
            escaped = draw(st.booleans())
            return (
                '"' + "".join(f"\\u{ord(c):04x}" for c in value) + '"'
                if escaped and all(ord(c) < 0xD800 for c in value)
                else json.dumps(value, ensure_ascii=draw(st.booleans()))
            )
        case list():
            return "[" + f"{space},".join(draw(written(item)) for item in value) + space + "]"
        case dict():
            members = (f"{draw(written(key))}{space}:{space}{draw(written(item))}" for key, item in value.items())
            return "{" + space + ("," + space).join(members) + "}"
        case _:
            return json.dumps(value)


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, object], bytes]:
    """A request whose model is OLD, with the field at any position, and its text."""
    fields = draw(objects)
    fields.pop("model", None)
    ordered = draw(st.permutations([*fields.items(), ("model", OLD)]))
    value: dict[str, object] = dict(ordered)
    return value, draw(written(value)).encode()


@settings(max_examples=50)
@given(requests())
def test_renaming_a_request_changes_only_its_model(request_: tuple[dict[str, object], bytes]) -> None:
    """With nested keys `model`, strings that resemble it, escapes and spaces around it."""
    value, text = request_
    renamed = rename_request(text, OLD, NEW)
    assert json.loads(renamed) == {**value, "model": NEW}
    start = next(index for index, (a, b) in enumerate(zip(text, renamed, strict=False)) if a != b)
    end = len(text) - next(index for index, (a, b) in enumerate(zip(text[::-1], renamed[::-1], strict=False)) if a != b)
    assert end - start <= len('"\\u006d"'), "other bytes than the name's have changed"


@settings(max_examples=50)
@given(objects)
def test_a_responses_name_is_replaced_in_the_objects_of_the_apis(value: dict[str, object]) -> None:
    """The outermost object, and the objects that name the model in the Responses API and the Messages API."""
    text = json.dumps(value).encode()
    expected = dict(value)
    if value.get("model") == OLD:
        expected["model"] = NEW
    for wrapper in ("response", "message"):
        inner = value.get(wrapper)
        if isinstance(inner, dict) and inner.get("model") == OLD:
            expected[wrapper] = {**inner, "model": NEW}
    assert json.loads(replace_model(text, OLD, NEW)) == expected


KEPT_BYTES = (
    b'{ "seed": 9007199254740993, "t":1e400,"u":1E-999, "b": "<&>\\u003c\\/", "a":-0.0, "model" : %s ,"z":[ ] }\n'
)


@pytest.mark.parametrize("rename", [rename_request, replace_model])
def test_numbers_escapes_order_and_spaces_are_kept(rename: object) -> None:
    """The text is not encoded again."""
    assert callable(rename)
    assert rename(KEPT_BYTES % b'"m"', "m", "m-v2") == KEPT_BYTES % b'"m-v2"'


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"\\u006d"}',
        b'{"mod\\u0065l":"m"}',
        b'{"x":{"model":"m"},"model":"m"}',
        b'{"model":"m","x":{"model":"m"}}',
        b'{"model":"m","x":"\\"model\\": \\"m\\""}',
        b'{"model":"m","x\\"model":"m"}',
        b'{"model":"m","x":["model","m"]}',
        b'{"model":"m","metadata":{"a":[{"model":"m"}]}}',
        b'{"model":"m","response":{"model":"m"}}',
        b'{"model":"m","mod\\u0065l":"m"}',
    ],
)
def test_the_name_is_replaced_in_every_spelling_and_position(text: bytes) -> None:
    """Escaped, or before or after strings that resemble it."""
    assert json.loads(rename_request(text, "m", "n")) == {**json.loads(text), "model": "n"}


def test_of_a_repeated_key_the_last_is_renamed() -> None:
    """Parsers read the last one."""
    assert json.loads(rename_request(b'{"model":"m","model":"m"}', "m", "n"))["model"] == "n"
    assert json.loads(rename_request(b'{"model":"x","mod\\u0065l":"m"}', "m", "n"))["model"] == "n"


def test_a_text_without_the_name_is_not_copied() -> None:
    text = b'{"model":"other"}'
    assert replace_model(text, "m", "n") is text
    assert rename_request(text, "m", "n") is text


@given(names, names)
@example("m", 'quote"\\back')
@example("é", "漢字")
def test_any_name_can_replace_any_other(old: str, new: str) -> None:
    """With quotes, backslashes and all scripts."""
    text = json.dumps({"model": old, "n": 1}).encode()
    assert json.loads(rename_request(text, old, new)) == {"model": new, "n": 1}
    assert json.loads(replace_model(text, old, new)) == {"model": new, "n": 1}


def test_nesting_is_not_limited_by_recursion() -> None:
    """100,000 levels."""
    deep = b"[" * 100_000 + b"]" * 100_000
    text = b'{"x":' + deep + b',"model":"m"}'
    assert rename_request(text, "m", "n") == b'{"x":' + deep + b',"model":"n"}'


@given(
    st.binary(max_size=60) | st.lists(st.sampled_from(list('{}[]":,\\ m')), max_size=40).map("".join).map(str.encode)
)
def test_every_span_found_in_any_bytes_is_the_name(text: bytes) -> None:
    """Nothing is raised."""
    for start, end in model_spans(text, "m"):
        assert json.loads(text[start:end]) == "m"


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"\\", b'"   ', b"{", b'{"model":', b'"model" '])
def test_time_is_linear_in_truncated_texts(unit: bytes) -> None:
    """Quadratic time for sixteen times the text would be 256 times as long."""

    def seconds(repeats: int) -> float:
        text = b'{"a":"' + unit * repeats
        best = float("inf")
        for _ in range(3):
            start = process_time()
            model_spans(text, "m")
            best = min(best, process_time() - start)
        return best

    assert seconds(32_000) < 100 * max(seconds(2_000), 1e-4)
