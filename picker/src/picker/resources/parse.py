"""Parses YAML text to typed objects, or to all problems in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError

from picker.bounded_text import shorten
from picker.printable import printable
from picker.resources.envoy_gateway import BackendTrafficPolicy
from picker.resources.gateway_api import Gateway, GatewayClass, HTTPRoute
from picker.resources.inference import InferencePool
from picker.resources.model_adapters import ConfigMap, is_managed
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ROUTER_GROUP
from picker.resources.objective_wire import InferenceModelRewriteV1Alpha2, InferenceObjectiveV1Alpha2
from picker.resources.objects import AnyObject
from picker.resources.pool_annotations import unknown_annotations
from picker.resources.pool_wire import InferenceModelV1Alpha2, InferencePoolV1, InferencePoolV1Alpha2
from picker.resources.problems import Location, Problem, field_path, unsupported_locations, validation_errors
from picker.resources.services import Service
from picker.resources.wire import Object
from picker.resources.yaml_documents import Document, documents

_OBJECTIVE_VERSIONS = (f"{ROUTER_GROUP}/v1alpha2", f"{POOL_GROUP_V1ALPHA2}/v1alpha2")
_GATEWAY_VERSIONS = ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1")
KINDS: Mapping[str, Mapping[str, type[Object]]] = {
    "InferencePool": {
        f"{POOL_GROUP_V1ALPHA2}/v1alpha2": InferencePoolV1Alpha2,
        f"{POOL_GROUP_V1}/v1": InferencePoolV1,
    },
    "InferenceModel": {f"{POOL_GROUP_V1ALPHA2}/v1alpha2": InferenceModelV1Alpha2},
    "InferenceObjective": dict.fromkeys(_OBJECTIVE_VERSIONS, InferenceObjectiveV1Alpha2),
    "InferenceModelRewrite": dict.fromkeys(_OBJECTIVE_VERSIONS, InferenceModelRewriteV1Alpha2),
    "ConfigMap": {"v1": ConfigMap},
    "GatewayClass": dict.fromkeys(_GATEWAY_VERSIONS, GatewayClass),
    "Gateway": dict.fromkeys(_GATEWAY_VERSIONS, Gateway),
    "HTTPRoute": dict.fromkeys(_GATEWAY_VERSIONS, HTTPRoute),
    "Service": {"v1": Service},
    "BackendTrafficPolicy": {"gateway.envoyproxy.io/v1alpha1": BackendTrafficPolicy},
}
"""The wire type of each kind that is read, by kind and apiVersion."""

MAX_PROBLEMS = 100
"""Limit on the reported problems of one object. Judgement: users correct fewer at once."""

MAX_TITLE = 512
"""Characters. The longest kind, namespace and name of the API fit."""

CLUSTER_SCOPED = ("GatewayClass",)
"""Kinds whose objects have no namespace."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """An object and its position."""

    file: str
    line: int
    title: str
    """`InferencePool default/vllm-qwen-pool`"""
    object: AnyObject
    warnings: tuple[Problem, ...] = ()
    """Fields of the object that have no effect."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An object that the gateway does not read, for example a Deployment, or a ConfigMap without the label."""

    file: str
    title: str


def parse(text: str, file: str) -> list[Parsed | Skipped | Problem]:
    """All results for `text`, in its order. Never raises."""
    results: list[Parsed | Skipped | Problem] = []
    for document in documents(text, file):
        if isinstance(document, Problem):
            results.append(document)
        else:
            for item in _items(document):
                results += _parse_document(item)
    return results


def _items(document: Document) -> Sequence[Document]:
    """The objects in a document: those of a List, which `kubectl get -o yaml` writes, or the document itself."""
    value = document.value
    if isinstance(value, dict):
        fields = cast(dict[str, object], value)
        if fields.get("kind") == "List" and isinstance(fields.get("items"), list):
            return document.items("items")
    return [document]


def _parse_document(document: Document) -> list[Parsed | Skipped | Problem]:
    value = document.value
    if not isinstance(value, dict):
        return [
            _problem(document, None, (), f"found {type(value).__name__}; allowed is an object with apiVersion and kind")
        ]
    fields = cast(dict[str, object], value)
    version, kind = fields.get("apiVersion"), fields.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        missing = "kind" if isinstance(version, str) else "apiVersion"
        return [_problem(document, None, (missing,), "missing or not text; every object needs apiVersion and kind")]
    if kind == "List":
        return [_problem(document, "List", (), "nested List: a List may only contain objects")]
    title = shorten(printable(f"{kind} {_name_of(fields)}"), MAX_TITLE)
    versions = KINDS.get(kind)
    if versions is None or (kind == "ConfigMap" and not is_managed(fields)):
        return [Skipped(document.file, title)]
    wire = versions.get(version)
    if wire is None:
        allowed = ", ".join(versions)
        return [_problem(document, title, ("apiVersion",), f"found {shorten(version)!r}; allowed: {allowed}")]
    return _validate(document, title, wire)


def _validate(document: Document, title: str, wire: type[Object]) -> list[Parsed | Skipped | Problem]:
    try:
        read = wire.model_validate(document.value)
        object_ = typed(read)
    except ValidationError as error:
        found = validation_errors(error, wire)
        problems = [_problem(document, title, location, message) for location, message in found[:MAX_PROBLEMS]]
        if len(found) > MAX_PROBLEMS:
            problems.append(_problem(document, title, (), f"and {len(found) - MAX_PROBLEMS} more problems"))
        return [*problems]
    warnings = tuple(
        _problem(document, title, location, "has no effect: the gateway on one machine does not serve it")
        for location in unsupported_locations(wire, document.value)
    )
    if isinstance(object_, InferencePool):
        annotations = cast("Mapping[str, Mapping[str, object]]", document.value)["metadata"].get("annotations")
        warnings += tuple(
            _problem(document, title, ("metadata", "annotations"), message)
            for message in unknown_annotations(cast("Mapping[str, object]", annotations or {}))
        )
    return [Parsed(document.file, document.line_of(()), title, object_, warnings)]


def typed(read: Object) -> AnyObject:
    """The object in the picker's form. Raises ValueError if the wire type accepts what that form does not."""
    if isinstance(read, InferencePoolV1Alpha2 | InferencePoolV1):
        return read.pool()
    if isinstance(read, InferenceModelV1Alpha2):
        return read.model()
    if isinstance(read, InferenceObjectiveV1Alpha2):
        return read.objective()
    if isinstance(read, InferenceModelRewriteV1Alpha2):
        return read.rewrite()
    if isinstance(read, ConfigMap):
        return read.adapters()
    assert isinstance(read, GatewayClass | Gateway | HTTPRoute | Service | BackendTrafficPolicy)
    return read


def _name_of(fields: Mapping[str, object]) -> str:
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        return "(without a name)"
    named = cast(dict[str, object], metadata)
    name = f"{named.get('name', '(without a name)')}"
    return name if fields.get("kind") in CLUSTER_SCOPED else f"{named.get('namespace', 'default')}/{name}"


def _problem(document: Document, title: str | None, location: Location, message: str) -> Problem:
    return Problem(document.file, document.line_of(location), title, field_path(location) or None, message)
