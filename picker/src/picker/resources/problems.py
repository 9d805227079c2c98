"""What is wrong with what users wrote, said so that they can mend it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in one place."""

    file: str
    line: int | None
    object: str | None
    """`InferencePool default/vllm-qwen-pool`; None where the file cannot be read that far."""
    field: str | None
    """`spec.targetModels[0].weight`"""
    message: str
    """What was found and what is allowed."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        parts = [place, self.object, self.field, self.message]
        return ": ".join(part for part in parts if part)


class InvalidManifests(Exception):
    """Manifests that cannot be used; the message has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def field_path(location: Location) -> str:
    """`("spec", "targetModels", 0, "weight")` as people write it."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What a validation error means to who wrote the field."""
    context, found = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "missing":
            return "missing; it is required"
        case "extra_forbidden":
            allowed = _fields_at(model, error["loc"][:-1])
            near = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"unknown field{hint} (allowed are {', '.join(allowed)})"
        case "enum" | "literal_error":
            return f"found {found!r}; allowed: {context['expected']}"
        case "greater_than_equal" | "less_than_equal":
            bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
            return f"found {found!r}; allowed: {bound}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long":
            unit = "characters" if error["type"].startswith("string") else "entries"
            length = len(found) if hasattr(found, "__len__") else found
            bound = (
                f"at least {context['min_length']}" if "min_length" in context else f"at most {context['max_length']}"
            )
            return f"found {length} {unit}; allowed: {bound}"
        case "value_error":
            text = str(context.get("error", error["msg"]))
            return text if isinstance(found, BaseModel | dict) else f"found {found!r}; {text}"
        case _:
            return f"found {found!r}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """The names that the fields of the object at `location` may have, as they are written."""
    for part in location:
        if isinstance(part, str):
            inner = next((_model_in(field.annotation) for name, field in _named(model) if name == part), None)
            if inner is None:
                return []
            model = inner
    return [name for name, _ in _named(model)]


def _named(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """The fields of a model by the names they are written with."""
    return [
        (field.validation_alias if isinstance(field.validation_alias, str) else name, field)
        for name, field in model.model_fields.items()
    ]


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None`, `tuple[Model, ...]`, `Annotated[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each)) is not None), None)
