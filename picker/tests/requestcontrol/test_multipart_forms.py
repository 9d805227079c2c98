"""Multipart forms: the fields that are read, and the forms that are rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.rejection import Rejection
from picker.requestcontrol.apis import AUDIO_TOKENS, TRANSCRIPTION
from picker.requestcontrol.multipart_forms import MAX_PARTS, FormUnreadable, read_form, with_value
from picker.requestcontrol.request_body import ParsedBody, read_form_body, rename

TYPE = "multipart/form-data; boundary=B"


def part(value: bytes, name: str = "model", more: str = "") -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


AUDIO = part(b"RIFF\r\n--Bother\r\n\r\n" * 0 + b"RIFF\0\xff", "file", '; filename="a.wav"')


def read(body: bytes, content_type: str = TYPE) -> ParsedBody:
    found = read_form_body(body, content_type, True, TRANSCRIPTION)
    assert isinstance(found, ParsedBody), found
    return found


@pytest.mark.parametrize(
    "body",
    [
        form(part(b"whisper"), AUDIO),
        form(AUDIO, part(b"whisper")),
        form(part(b"other"), AUDIO, part(b"whisper")),
        form(part(b"other", more='; filename="m"'), part(b"whisper")),
        form(part(b"en", "language"), part(b"whisper"), part(b"json", "response_format")),
    ],
)
def test_the_model_of_a_form_is_read_at_any_position(body: bytes) -> None:
    assert read(body).model == "whisper"


@given(st.text(min_size=1, max_size=40).filter(lambda name: "\r" not in name), st.binary(max_size=200))
def test_renaming_a_form_changes_only_its_model(name: str, audio: bytes) -> None:
    file = part(audio.replace(b"\r", b""), "file", '; filename="a"')
    body = form(file, part(b"whisper"), part(b"en", "language"))
    renamed = rename(read(body), body, name)
    assert renamed == form(file, part(name.encode()), part(b"en", "language"))
    assert read(renamed).model == name


def test_an_audio_clip_counts_as_a_fixed_number_of_tokens() -> None:
    short, long = (
        read(form(part(b"m"), part(b"x" * size, "file", '; filename="a"'))).prompt_tokens for size in (9, 1 << 20)
    )
    assert short == long == AUDIO_TOKENS


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (form(part(b"m")), "multipart/form-data"),
        (form(part(b"m")), "multipart/form-data; boundary=B; boundary=C"),
        (form(part(b"m")), "multipart/form-data; boundary=B; charset=utf-16"),
        (form(part(b"m")), "multipart/form-data; boundary=" + "B" * 71),
        (b"preamble\r\n" + form(part(b"m")), TYPE),
        (part(b"m"), TYPE),
        (form(part(b"m")).replace(b"--B--", b"--Bx"), TYPE),
        (form(part(b"m").replace(b"\r\n", b"\n")), TYPE),
        (form(part(b"m", more='; name="other"')), TYPE),
        (form(part(b"m", more="; name*=utf-8''other")), TYPE),
        (form(part(b"m", "m\\odel")), TYPE),
        (form(b"--B\r\nX: y\r\n\r\nm\r\n"), TYPE),
        (form(b'--B\r\nContent-Disposition: form-data; name="model"\r\n continued\r\n\r\nm\r\n'), TYPE),
        (form(b"--B\r\nX: " + b"y" * 20_000 + b"\r\n\r\nm\r\n"), TYPE),
        (form(*[part(b"m")] * (MAX_PARTS + 1)), TYPE),
    ],
)
def test_an_ambiguous_form_is_rejected(body: bytes, content_type: str) -> None:
    """Servers may read it in another way."""
    found = read_form_body(body, content_type, True, TRANSCRIPTION)
    assert isinstance(found, Rejection)
    assert (found.status, found.reason) == (400, "body-not-form")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (form(AUDIO), "model-missing"),
        (form(part(b"m" * 257)), "model-too-long"),
        (form(part(b"m" * 100_000)), "model-missing"),
    ],
)
def test_a_form_must_name_a_model_of_a_bounded_length(body: bytes, reason: str) -> None:
    found = read_form_body(body, TYPE, True, TRANSCRIPTION)
    assert isinstance(found, Rejection)
    assert found.reason == reason


@given(st.binary(max_size=100) | st.lists(st.sampled_from([b"--B", b"\r\n", b"--", b"a: b", part(b"m")])).map(b"".join))
def test_any_bytes_are_a_form_or_unreadable(body: bytes) -> None:
    try:
        found = read_form(body, TYPE)
    except FormUnreadable:
        return
    for span in found.fields.values():
        assert with_value(body, span, "x") != b""
