"""Problems in users' objects: where they are, what was found and what is allowed."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from picker.bounded_text import shorten
from picker.printable import printable
from picker.resources.wire import Wire

Location = tuple[int | str, ...]

SHOWN_CHARACTERS = 80
"""Limit on the quoted part of an invalid value: enough to find it."""

_TYPES = {
    "int_type": "a whole number, without quotes",
    "int_parsing": "a whole number",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
}
"""Pydantic's type errors in the words of YAML."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem at one position."""

    file: str
    line: int | None
    object: str | None
    """`InferencePool default/vllm-qwen-pool`. None if the file cannot be parsed that far."""
    field: str | None
    """`spec.targetModels[0].weight`"""
    message: str
    """What was found and what is allowed."""

    def __str__(self) -> str:
        file = printable(self.file)
        place = file if self.line is None else f"{file}:{self.line}"
        parts = [place, self.object, self.field, self.message]
        return ": ".join(part for part in parts if part)


class InvalidManifests(Exception):
    """Manifests that cannot be used. The message has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def unreadable(file: Path, error: OSError | UnicodeDecodeError) -> Problem:
    """The problem of a file that cannot be read as text."""
    if isinstance(error, UnicodeDecodeError):
        reason = f"it is not UTF-8 (byte {error.start + 1})"
    else:
        reason = error.strerror or str(error)
    return Problem(str(file), None, None, None, f"cannot be read: {reason}")


def field_path(location: Location) -> str:
    """`("spec", "targetModels", 0, "weight")` as a path. A key that contains dots is in brackets."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) or "." in part else f".{part}"
    return shorten(printable(path.removeprefix(".")))


def validation_errors(error: ValidationError, model: type[Wire]) -> list[tuple[Location, str]]:
    """Each error once, with its location. A required field under a misspelt name counts as one error."""
    errors = error.errors()
    meant = {(*item["loc"][:-1], _near(item, model)) for item in errors if item["type"] == "extra_forbidden"}
    return [
        (item["loc"], sentence(item, model)) for item in errors if item["type"] != "missing" or item["loc"] not in meant
    ]


def _near(error: ErrorDetails, model: type[Wire]) -> str | None:
    """The field whose name is closest to that of an unknown field. None if none is close."""
    return next(
        iter(difflib.get_close_matches(str(error["loc"][-1]), _fields_at(model, error["loc"][:-1]), 1, 0.5)), None
    )


def sentence(error: ErrorDetails, model: type[Wire]) -> str:
    """The text of a validation error: what was found and what is allowed."""
    context, found = error.get("ctx", {}), error["input"]
    shown = _shown(found)
    if allowed_type := _TYPES.get(error["type"]):
        return f"found {shown}; allowed is {allowed_type}"
    match error["type"]:
        case "missing":
            return "missing; it is required"
        case "extra_forbidden":
            allowed = _fields_at(model, error["loc"][:-1])
            near = _near(error, model)
            hint = f"; did you mean {near}?" if near else ""
            return f"unknown field{hint} (allowed are {', '.join(allowed)})"
        case "enum" | "literal_error":
            return f"found {shown}; allowed: {context['expected']}"
        case "greater_than_equal" | "less_than_equal":
            bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
            return f"found {shown}; allowed: {bound}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long":
            unit = "characters" if error["type"].startswith("string") else "entries"
            length = len(found) if hasattr(found, "__len__") else found
            bound = (
                f"at least {context['min_length']}" if "min_length" in context else f"at most {context['max_length']}"
            )
            return f"found {length} {unit}; allowed: {bound}"
        case "value_error":
            text = str(context.get("error", error["msg"]))
            return text if isinstance(found, BaseModel | dict) else f"found {shown}; {text}"
        case _:
            return f"found {shown}; {error['msg'][0].lower()}{error['msg'][1:]}"


def unsupported_locations(model: type[Wire], value: object, at: Location = ()) -> Iterator[Location]:
    """Locations in the valid object `value` of fields that have no effect here."""
    if isinstance(value, list | tuple):
        for index, item in enumerate(cast("Sequence[object]", value)):
            yield from unsupported_locations(model, item, (*at, index))
    elif isinstance(value, Mapping):
        fields = dict(_named(model))
        for name, item in cast("Mapping[str, object]", value).items():
            if name in model.unsupported_fields:
                yield (*at, name)
            elif name in fields and (inner := _model_in(fields[name].annotation)) is not None:
                yield from unsupported_locations(inner, item, (*at, name))


def _shown(found: object) -> str:
    """The quoted value, shortened if it is long."""
    text = repr(found)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _fields_at(model: type[Wire], location: Location) -> list[str]:
    """The field names that are allowed in the object at `location`."""
    for part in location:
        if isinstance(part, str):
            inner = next((_model_in(field.annotation) for name, field in _named(model) if name == part), None)
            if inner is None:
                return []
            model = inner
    return [name for name, _ in _named(model)]


def _named(model: type[Wire]) -> list[tuple[str, FieldInfo]]:
    """The fields of a model by their names in YAML."""
    return [
        (field.validation_alias if isinstance(field.validation_alias, str) else name, field)
        for name, field in model.model_fields.items()
    ]


def _model_in(annotation: object) -> type[Wire] | None:
    """The model in `Model`, `Model | None`, `tuple[Model, ...]`, `Annotated[Model, ...]`. None without a model."""
    if isinstance(annotation, type) and issubclass(annotation, Wire):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _model_in(argument)) is not None), None)
