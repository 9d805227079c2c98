"""Common parts of all objects: pydantic models of the wire form, with names in camelCase."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, cast

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.alias_generators import to_camel

from picker.resources.names import ObjectName

_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_NAME = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_DURATION_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Wire(BaseModel):
    """A part of an object. Unknown fields are rejected. A source whose objects an API server has validated parses with
    `extra="ignore"`. A field that is null counts as absent, as everywhere in Kubernetes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=AliasGenerator(validation_alias=to_camel), populate_by_name=True
    )

    unsupported_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields of the API that are allowed and have no effect here. They cause a warning; an unknown field is an
    error."""
    not_read: ClassVar[frozenset[str]] = frozenset()
    """Fields that are not read and cause no warning."""

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_read(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        fields = cast("Mapping[str, object]", value)
        left_out = cls.unsupported_fields | cls.not_read
        known = [field.validation_alias for field in cls.model_fields.values()]
        return {
            name: field
            for name, field in fields.items()
            if name not in left_out and (field is not None or name not in known)
        }


def _dns_name(value: str) -> str:
    if not _DNS_NAME.fullmatch(value):
        raise ValueError("allowed are lower-case letters, digits, '-' and '.', the ends being a letter or digit")
    return value


def _label_name(value: str) -> str:
    if not _LABEL_NAME.fullmatch(value):
        raise ValueError("allowed is [prefix/]name of letters, digits, '-', '_' and '.', the name at most 63 long")
    return value


def _label_value(value: str) -> str:
    if not _LABEL_VALUE.fullmatch(value):
        raise ValueError("allowed are letters, digits, '-', '_' and '.', at most 63")
    return value


def duration_s(value: object) -> object:
    """Seconds of a Gateway API duration (GEP-2257): `1h`, `1m30s`, `500ms`. Raises ValueError."""
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(int(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(value))
    raise ValueError("allowed are durations such as 1h, 1m30s, 10s, 500ms")


def _time(value: object) -> object:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None:
        raise ValueError("allowed are times such as 2025-01-31T12:00:00Z")
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


DnsName = Annotated[str, AfterValidator(_dns_name)]
Label = Annotated[str, AfterValidator(_label_name)]
LabelValue = Annotated[str, AfterValidator(_label_value)]
Labels = dict[Label, LabelValue]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Seconds = Annotated[float, BeforeValidator(duration_s)]


Time = Annotated[datetime, BeforeValidator(_time)]


class Metadata(Wire):
    """`metadata`: the fields that users write. Those that an API server adds are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: DnsName
    namespace: DnsName = "default"
    creation_timestamp: Time | None = None


class Object(Wire):
    """An object. Its status is not read: the cluster writes it."""

    not_read: ClassVar = frozenset({"status"})

    api_version: str
    metadata: Metadata

    @property
    def name(self) -> ObjectName:
        return ObjectName(self.metadata.namespace, self.metadata.name)
