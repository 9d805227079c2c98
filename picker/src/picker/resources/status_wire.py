"""Wire types of the statuses of inference objects."""

from typing import Annotated, Literal

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from picker.resources.gateway_api import GROUP

MAX_MESSAGE = 32_768
"""Limit on the characters of a condition's message, as in every Kubernetes API."""


BoundedText = Annotated[str, Field(max_length=1024)]
"""A field of an ObjectReference. The Kubernetes API does not limit it."""


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
"""DNS names in the patterns of the inference extension's CRDs."""

Group = Annotated[str, Field(max_length=253, pattern=rf"^$|^{_SUBDOMAIN}$")]
Kind = Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")]
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=f"^{_LABEL}$")]
ControllerName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=rf"^{_SUBDOMAIN}\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$")
]
ConditionType = Annotated[
    str, Field(max_length=316, pattern=rf"^({_SUBDOMAIN}/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$")
]


class StatusWire(BaseModel):
    """A part of a status. Serialise it with `by_alias`."""

    model_config = ConfigDict(frozen=True, alias_generator=AliasGenerator(alias=to_camel), populate_by_name=True)


class Condition(StatusWire):
    """One aspect of an object's state, in the form of every Kubernetes API."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    message: Annotated[str, Field(max_length=MAX_MESSAGE)]
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class ParentReference(StatusWire):
    """The Gateway of a v1 status."""

    group: Group = GROUP
    kind: Kind = "Gateway"
    namespace: Namespace | None = None
    name: Annotated[str, Field(min_length=1, max_length=253)]


class ParentStatus(StatusWire):
    """The status of a v1 pool at one Gateway."""

    parent_ref: ParentReference
    controller_name: ControllerName | None = None
    conditions: Conditions = ()


class InferencePoolStatusV1(StatusWire):
    parents: Annotated[
        tuple[ParentStatus, ...], Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()


class ObjectReference(StatusWire):
    """The Gateway of a v1alpha2 status: a reference of the core API."""

    api_version: BoundedText | None = None
    field_path: BoundedText | None = None
    kind: BoundedText | None = None
    name: BoundedText | None = None
    namespace: BoundedText | None = None
    resource_version: BoundedText | None = None
    uid: BoundedText | None = None


class ParentStatusV1Alpha2(StatusWire):
    """The status of a v1alpha2 pool at one Gateway."""

    parent_ref: Annotated[ObjectReference, Field(json_schema_extra={"x-kubernetes-map-type": "atomic"})]
    conditions: Conditions = ()


class InferencePoolStatusV1Alpha2(StatusWire):
    parent: Annotated[tuple[ParentStatusV1Alpha2, ...], Field(max_length=32)] = ()


class ConditionsStatus(StatusWire):
    """The status of an object that describes models."""

    conditions: Conditions = ()
