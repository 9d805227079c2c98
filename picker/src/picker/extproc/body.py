"""Read from a request's body what the decision needs, and nothing else."""

import re
from codecs import BOM_UTF8

import msgspec

from picker.bounded_text import MAX_CHARACTERS
from picker.extproc.refusals import Reason, Rejection

BYTES_PER_TOKEN = 4
"""Of JSON text around English: the usual estimate; a served answer would tell better, but costs reading it."""

DEFAULT_OUTPUT_TOKENS = 256
"""Expected of a request that names no limit."""

MAX_OUTPUT_TOKENS = 1 << 20
"""Expected of any request, whatever it names: no server's context is longer."""

GENERATING_PATHS = ("/v1/",)
"""Here a body must be JSON and name its model. Elsewhere (/tokenize, /ping, a server's own routes) it need not."""

UNNAMED_PATHS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
"""Routes under /v1/ whose bodies name no model."""


class _Fields(msgspec.Struct):
    """The fields read. `Raw` ones are checked to be JSON and kept as they are: no string of a prompt is ever
    decoded."""

    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    system: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    cache_salt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_completion_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_output_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_decoder = msgspec.json.Decoder(_Fields)
_string = msgspec.json.Decoder(str)
_integer = msgspec.json.Decoder(int, strict=False)


class ReadBody(msgspec.Struct, frozen=True, gc=False):
    """What a body says."""

    model: str | None
    prompt: bytes
    """The JSON of the prompt, tools and system text first, so that equal beginnings are equal bytes."""
    salt: bytes
    """What keeps equal prompts of different clients apart in a prefix cache."""
    prompt_tokens: int
    output_tokens: int
    json: bytes = b""
    """All of it."""


NO_BODY = ReadBody(model=None, prompt=b"", salt=b"", prompt_tokens=0, output_tokens=0)


def must_name_model(path: str, content_type: str) -> bool:
    """Whether a body sent to `path` has to be a JSON object with a `model`. A form (audio, images) names it
    elsewhere."""
    return (
        path.startswith(GENERATING_PATHS)
        and not path.startswith(UNNAMED_PATHS)
        and not content_type.lower().startswith("multipart/")
    )


def declared_bytes(content_length: str) -> int:
    """The length that a request declares; 0 when it declares none that can be read."""
    return (
        int(content_length) if content_length.isascii() and content_length.isdigit() and len(content_length) < 20 else 0
    )


def content_coding(content_encoding: str) -> str | None:
    """The first coding of a body that is none of its own text: gzip, say. None for a body as it is."""
    if not content_encoding:
        return None
    codings = (coding.strip().lower() for coding in content_encoding.split(","))
    return next((coding for coding in codings if coding not in ("", "identity")), None)


def read_body(body: bytes, strict: bool) -> ReadBody | Rejection:
    """Read `body`. With `strict` what is not a JSON object with a string `model` is rejected; otherwise such a body is
    passed on unread."""
    if not body:
        return Rejection(400, Reason.BODY_MISSING, "The request has no body.") if strict else NO_BODY
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not strict:
            return NO_BODY
        return Rejection(400, Reason.BODY_NOT_JSON, f"The request body is not a JSON object: {error}.")
    model = _model(fields)
    if isinstance(model, Rejection):
        if strict:
            return model
        model = None
    parts = [bytes(raw) for raw in (fields.tools, fields.system, *_prompts(fields)) if raw]
    prompt = parts[0] if len(parts) == 1 else b"".join(parts)
    return ReadBody(
        model=model,
        prompt=prompt,
        salt=bytes(fields.cache_salt) if fields.cache_salt else b"",
        prompt_tokens=_prompt_tokens(prompt),
        output_tokens=_output_tokens(fields),
        json=body,
    )


def _decode(body: bytes) -> _Fields:
    """Raises msgspec.DecodeError. A byte order mark and escapes of half a character are read over: the decoder takes
    neither, yet both are sent (by editors, and by clients that cut text by UTF-16 units), and servers may read them."""
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        mended = _SURROGATE_ESCAPE.sub(rb"\\ufffd", body.removeprefix(BOM_UTF8))
        if mended == body:
            raise
        return _decoder.decode(mended)


def _model(fields: _Fields) -> str | Rejection:
    if not fields.model:
        return Rejection(400, Reason.MODEL_MISSING, "The request body names no model.", param="model")
    try:
        name = _string.decode(fields.model)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = bytes(fields.model)[:40].decode(errors="replace")
        return Rejection(
            400, Reason.MODEL_WRONG_TYPE, f"The field model must be a string, found {found}.", param="model"
        )
    if len(name) > MAX_CHARACTERS:
        return Rejection(
            400,
            Reason.MODEL_TOO_LONG,
            f"The field model has {len(name)} characters, {MAX_CHARACTERS} are allowed.",
            param="model",
        )
    return name


def _prompts(fields: _Fields) -> tuple[msgspec.Raw | msgspec.UnsetType, ...]:
    return fields.messages, fields.prompt, fields.input


def _prompt_tokens(prompt: bytes) -> int:
    """Tokens of the JSON of a prompt: counted in a list of token ids, estimated in text."""
    if prompt[:16].lstrip(b"[ \t\r\n")[:1].isdigit():
        return prompt.count(b",") + 1
    return len(prompt) // BYTES_PER_TOKEN


def _output_tokens(fields: _Fields) -> int:
    for limit in (fields.max_completion_tokens, fields.max_tokens, fields.max_output_tokens):
        if limit:
            try:
                return min(MAX_OUTPUT_TOKENS, max(0, _integer.decode(limit)))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
    return DEFAULT_OUTPUT_TOKENS
