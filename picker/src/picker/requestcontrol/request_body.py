"""Parses the fields of a request's body that scheduling needs."""

from codecs import BOM_UTF8

import msgspec

from picker.bounded_text import MAX_CHARACTERS
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.apis import UNKNOWN, Api, api_of
from picker.requestcontrol.model_field import rename_request
from picker.requestcontrol.multipart_forms import MAX_FIELD_BYTES, FormUnreadable, read_form, with_value
from picker.requestcontrol.prompt_work import MAX_MEDIA, MAX_PROMPT_TOKENS, MAX_SEQUENCES, prompt_tokens, sequences

MAX_OUTPUT_TOKENS = 1 << 20
"""Upper limit on the expected output of a sequence. Judgement: no server's context is longer."""


class _Fields(msgspec.Struct):
    """The fields that are read. `Raw` fields are checked to be JSON and not decoded: prompts may be long."""

    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    cache_salt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    system: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    instructions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    token_ids: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    texts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    images: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    text_1: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    text_2: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_1: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_2: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    queries: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    query: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    items: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    documents: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_completion_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_output_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    n: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    best_of: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sampling_params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Fields)
_string = msgspec.json.Decoder(str)
_integer = msgspec.json.Decoder(int, strict=False)


class ParsedBody(msgspec.Struct, frozen=True, gc=False):
    """The parsed fields of a body."""

    model: str | None
    prompt: bytes
    """JSON of the prompt. Tools and system text come first, so that equal beginnings are equal bytes."""
    salt: bytes
    """JSON of `cache_salt`: prompts with different salts share no prefix cache. Empty without one."""
    prompt_tokens: int
    """Estimated."""
    output_tokens: int
    """Expected for each sequence."""
    sequences: int = 1
    """Sequences that the server generates at once: prompts times copies."""
    json: bytes = b""
    """The whole body; empty for a form."""
    model_span: tuple[int, int] | None = None
    """Start and end of the model's name in a form; None for JSON."""


EMPTY_BODY = ParsedBody(model=None, prompt=b"", salt=b"", prompt_tokens=0, output_tokens=0)


def must_name_model(path: str, content_type: str) -> bool:
    """Whether a body sent to `path` must be a JSON object with a `model`, or a form with one."""
    return api_of(path).names_model


def declared_bytes(content_length: str) -> int:
    """Parses a content-length; 0 if it is not valid."""
    return (
        int(content_length) if content_length.isascii() and content_length.isdigit() and len(content_length) < 20 else 0
    )


def content_coding(content_encoding: str) -> str | None:
    """The first coding of a content-encoding header other than identity, for example gzip; None without one."""
    if not content_encoding:
        return None
    codings = (coding.strip().lower() for coding in content_encoding.split(","))
    return next((coding for coding in codings if coding not in ("", "identity")), None)


def read_body(body: bytes, strict: bool, api: Api = UNKNOWN, *, says_json: bool = False) -> ParsedBody | Rejection:
    """Parses the fields of `body` that `api` reads. With `strict`, `body` must be a JSON object with a string `model`.

    Without `strict` the model may be missing, and a body that is not a JSON object gives `EMPTY_BODY`. Only bytes that
    are not JSON are rejected, if the content type `says_json`."""
    if not body:
        return Rejection(RejectReason.BODY_MISSING, "The request has no body.") if strict else EMPTY_BODY
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not strict and (not says_json or isinstance(error, msgspec.ValidationError)):
            return EMPTY_BODY
        return Rejection(RejectReason.BODY_NOT_JSON, f"The request body is not a JSON object: {error}.")
    model = _model(fields)
    if isinstance(model, Rejection):
        if strict:
            return model
        model = None
    return _counted(model, fields, api, body)


def read_form_body(body: bytes, content_type: str, strict: bool, api: Api) -> ParsedBody | Rejection:
    """Parses the fields of a form that `api` reads. With `strict`, the form must be valid and name a model."""
    try:
        form = read_form(body, content_type)
    except FormUnreadable as problem:
        if not strict:
            return EMPTY_BODY
        return Rejection(RejectReason.BODY_NOT_FORM, f"The request body is not a valid form: {problem}.")
    fields = _Fields()
    for name in ("model", *api.limits, *api.copies):
        span = form.fields.get(name)
        if span is not None and span[1] - span[0] <= MAX_FIELD_BYTES:
            value = body[span[0] : span[1]].decode(errors="replace")
            setattr(fields, name, msgspec.Raw(msgspec.json.encode(value)))
    model = _model(fields)
    if isinstance(model, Rejection):
        if strict:
            return model
        model = None
    return ParsedBody(
        model=model,
        prompt=b"",
        salt=b"",
        prompt_tokens=api.form_tokens * min(MAX_MEDIA, max(1, form.files)),
        output_tokens=_output_tokens(fields, api),
        sequences=min(MAX_SEQUENCES, _copies(fields, api)),
        model_span=form.fields["model"] if model is not None else None,
    )


def rename(parsed: ParsedBody, body: bytes, model: str) -> bytes:
    """Replaces the model's name in `body`. `parsed`: the fields of `body`."""
    if parsed.model_span is not None:
        return with_value(body, parsed.model_span, model)
    return rename_request(body, parsed.model or "", model)


def _counted(model: str | None, fields: _Fields, api: Api, body: bytes) -> ParsedBody:
    for name, chosen in api.choices:
        if _present(getattr(fields, name)):
            api = chosen
            break
    parts: list[bytes] = []
    tokens, count, repeated = 0, 1, 0
    for name in api.prompts:
        raw: msgspec.Raw | msgspec.UnsetType = getattr(fields, name)
        if raw and (part := bytes(raw)) != b"null":
            parts.append(part)
            tokens += (of_part := prompt_tokens(part))
            if name in api.sequences and part[:1] == b"[":
                count = max(count, sequences(part))
            if name == api.repeated:
                repeated = of_part
    if repeated:
        tokens += repeated * (count - 1)
    salt = fields.cache_salt
    limits = fields if api.inner is None else _inner(getattr(fields, api.inner))
    if (copies := _copies(limits, api)) > 1:
        count = min(MAX_SEQUENCES, count * copies)
    return ParsedBody(
        model=model,
        prompt=parts[0] if len(parts) == 1 else b"".join(parts),
        salt=bytes(salt) if salt else b"",
        prompt_tokens=tokens if tokens < MAX_PROMPT_TOKENS else MAX_PROMPT_TOKENS,
        output_tokens=_output_tokens(limits, api),
        sequences=count,
        json=body,
    )


def _present(raw: msgspec.Raw | msgspec.UnsetType) -> bool:
    return bool(raw) and bytes(raw) != b"null"


def _decode(body: bytes) -> _Fields:
    """Decodes `body`. Raises msgspec.DecodeError.

    A byte order mark and escapes of lone surrogates are accepted, although the decoder rejects them. Editors and
    clients that split text by UTF-16 units send them, and servers may read them."""
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        # Escapes of surrogates become escapes of private use characters, which have the same length and need no pair.
        repaired = body.removeprefix(BOM_UTF8).replace(b"\\ud", b"\\ue").replace(b"\\uD", b"\\uE")
        if repaired == body:
            raise
        fields = _decoder.decode(repaired)
        if fields.model and (name := bytes(fields.model)).find(b"\\u") >= 0:
            fields.model = msgspec.Raw(_original_name(name))
        return fields


def _original_name(name: bytes) -> bytes:
    """The JSON of a model's name before the repair of its body; unchanged if the original has a lone surrogate."""
    original = name.replace(b"\\ue", b"\\ud").replace(b"\\uE", b"\\uD")
    try:
        _string.decode(original)
    except msgspec.DecodeError:
        return name
    return original


def _model(fields: _Fields) -> str | Rejection:
    if not fields.model:
        return Rejection(RejectReason.MODEL_MISSING, "The request body names no model.", param="model")
    try:
        name = _string.decode(fields.model)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = bytes(fields.model)[:40].decode(errors="replace")
        return Rejection(
            RejectReason.MODEL_WRONG_TYPE, f"The field model must be a string, found {found}.", param="model"
        )
    if len(name) > MAX_CHARACTERS:
        return Rejection(
            RejectReason.MODEL_TOO_LONG,
            f"The field model has {len(name)} characters, {MAX_CHARACTERS} are allowed.",
            param="model",
        )
    return name


def _output_tokens(fields: _Fields, api: Api) -> int:
    """The expected output of one sequence. A limit that is not positive is ignored: servers reject it, or use their
    default."""
    for name in api.limits:
        raw: msgspec.Raw | msgspec.UnsetType = getattr(fields, name)
        if raw and (limit := _positive(raw)):
            return min(MAX_OUTPUT_TOKENS, limit)
    return api.output_tokens


def _copies(fields: _Fields, api: Api) -> int:
    copies = 1
    for name in api.copies:
        raw: msgspec.Raw | msgspec.UnsetType = getattr(fields, name)
        if raw:
            copies = max(copies, _positive(raw))
    return copies


def _positive(raw: msgspec.Raw) -> int:
    """Decodes a positive integer; 0 for anything else."""
    try:
        return max(0, _integer.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


def _inner(raw: msgspec.Raw | msgspec.UnsetType) -> _Fields:
    """The fields of an object in the body; no fields if it is not an object."""
    try:
        return _decoder.decode(raw) if raw else _Fields()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Fields()
