"""Parses request bodies as vLLM does, with vLLM's error texts."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from vllm_mock.generation.errors import ApiError

_MAX_ERRORS = 10
_MAX_INPUT_CHARACTERS = 200
_MAX_ERROR_CHARACTERS = 1000
_TRUNCATED = "...[truncated]"
_BRACKETS = re.compile(r"[\[\](){}]")
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "set", "none", "nullable"})
_BODY_NAMES = frozenset({"tokenizeprompt", "tokenizechat", "namedtoolchoice"})
"""Names that pydantic adds to an error's location for a branch of a union. They are not fields, so they are removed.
The types of a message stay, as in vLLM."""

Kind = TypeVar("Kind")


def read_body(kind: type[Kind], content_type: str, data: bytes) -> Kind:
    """Parses `data` as `kind`. Raises ApiError with the text of vLLM's validation."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(400, message, None, "Bad Request")
    if not data:
        raise _invalid([{"type": "missing", "loc": (), "msg": "Field required", "input": None}])
    try:
        value: object = json.loads(data)
    except json.JSONDecodeError as error:
        raise _not_json(error.pos, error.msg) from None
    except UnicodeDecodeError as error:
        raise _not_json(error.start, error.reason) from None
    except RecursionError:
        raise _not_json(0, "nested too deeply") from None
    try:
        return _adapter(kind).validate_python(value, from_attributes=True)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False)) from None


@cache
def _adapter(kind: type[Kind]) -> TypeAdapter[Kind]:
    return TypeAdapter(kind)


def _not_json(position: int, reason: str) -> ApiError:
    details: ErrorDetails = {
        "type": "json_invalid",
        "loc": (position,),
        "msg": "JSON decode error",
        "input": {},
        "ctx": {"error": reason},
    }
    return _invalid([details])


def _invalid(errors: list[ErrorDetails]) -> ApiError:
    label = "error" if len(errors) == 1 else "errors"
    lines = [f"{len(errors)} validation {label}:"]
    lines += [f"  {_described(error)}" for error in errors[:_MAX_ERRORS]]
    if len(errors) > _MAX_ERRORS:
        lines.append(f"  ...and {len(errors) - _MAX_ERRORS} more {label}")
    return ApiError(400, "\n".join(lines), _location(errors[0]), "Bad Request")


def _location(error: ErrorDetails) -> str:
    parts = map(str, error["loc"])
    fields = (part for part in parts if part.lower() not in _TYPE_NAMES | _BODY_NAMES and not _BRACKETS.search(part))
    return ".".join(["body", *fields])


def _described(error: ErrorDetails) -> str:
    description: dict[str, Any] = {
        "type": error["type"],
        "loc": _location(error),
        "msg": error["msg"],
        "input": _summary(error["input"]),
    }
    if "ctx" in error:
        description["ctx"] = error["ctx"]
    return _cut(str(description), _MAX_ERROR_CHARACTERS)


def _summary(value: Any) -> str:
    """The value, truncated; the size of a container."""
    if isinstance(value, list | Mapping):
        return f"<{type(value).__name__} of {len(value)} items>"  # pyright: ignore[reportUnknownArgumentType]
    return _cut(str(value), _MAX_INPUT_CHARACTERS)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + _TRUNCATED
