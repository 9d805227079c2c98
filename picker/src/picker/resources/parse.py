"""YAML text to typed objects, or to everything that is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError

from picker.resources.envoy_gateway import BackendTrafficPolicy
from picker.resources.gateway_api import Gateway, GatewayClass, HTTPRoute
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2
from picker.resources.objects import AnyObject
from picker.resources.pool_wire import InferenceModelV1Alpha2, InferencePoolV1, InferencePoolV1Alpha2
from picker.resources.problems import Location, Problem, field_path, sentence
from picker.resources.services import Service
from picker.resources.wire import Object
from picker.resources.yaml_documents import Document, documents

_GATEWAY_VERSIONS = ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1")
KINDS: Mapping[str, Mapping[str, type[Object]]] = {
    "InferencePool": {
        f"{POOL_GROUP_V1ALPHA2}/v1alpha2": InferencePoolV1Alpha2,
        f"{POOL_GROUP_V1}/v1": InferencePoolV1,
    },
    "InferenceModel": {f"{POOL_GROUP_V1ALPHA2}/v1alpha2": InferenceModelV1Alpha2},
    "GatewayClass": dict.fromkeys(_GATEWAY_VERSIONS, GatewayClass),
    "Gateway": dict.fromkeys(_GATEWAY_VERSIONS, Gateway),
    "HTTPRoute": dict.fromkeys(_GATEWAY_VERSIONS, HTTPRoute),
    "Service": {"v1": Service},
    "BackendTrafficPolicy": {"gateway.envoyproxy.io/v1alpha1": BackendTrafficPolicy},
}
"""The wire form of every kind that is read, by kind and apiVersion."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """An object and where it was written."""

    file: str
    line: int
    title: str
    """`InferencePool default/vllm-qwen-pool`"""
    object: AnyObject


@dataclass(frozen=True, slots=True)
class Skipped:
    """An object of a kind that is not the gateway's: a Deployment, say."""

    file: str
    title: str


def parse(text: str, file: str) -> list[Parsed | Skipped | Problem]:
    """Everything in `text`, in its order. Never raises."""
    results: list[Parsed | Skipped | Problem] = []
    for document in documents(text, file):
        results += [document] if isinstance(document, Problem) else _parse_document(document)
    return results


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
    if kind == "List" and isinstance(items := fields.get("items"), list):
        return [
            _problem(
                document,
                "List",
                (),
                f"lists are not read; write its {len(cast(list[object], items))} objects as documents",
            )
        ]
    title = f"{kind} {_name_of(fields)}"
    versions = KINDS.get(kind)
    if versions is None:
        return [Skipped(document.file, title)]
    wire = versions.get(version)
    if wire is None:
        allowed = ", ".join(versions)
        return [_problem(document, title, ("apiVersion",), f"found {version!r}; allowed: {allowed}")]
    return _validate(document, title, wire)


def _validate(document: Document, title: str, wire: type[Object]) -> list[Parsed | Skipped | Problem]:
    try:
        read = wire.model_validate(document.value)
        typed = _typed(read)
    except ValidationError as error:
        return [_problem(document, title, each["loc"], sentence(each, wire)) for each in error.errors()]
    except ValueError as error:
        return [_problem(document, title, ("metadata",), str(error))]
    return [Parsed(document.file, document.line_of(()), title, typed)]


def _typed(read: Object) -> AnyObject:
    if isinstance(read, InferencePoolV1Alpha2 | InferencePoolV1):
        return read.pool()
    if isinstance(read, InferenceModelV1Alpha2):
        return read.model()
    assert isinstance(read, GatewayClass | Gateway | HTTPRoute | Service | BackendTrafficPolicy)
    return read


def _name_of(fields: Mapping[str, object]) -> str:
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        return "(without a name)"
    named = cast(dict[str, object], metadata)
    return f"{named.get('namespace', 'default')}/{named.get('name', '(without a name)')}"


def _problem(document: Document, title: str | None, location: Location, message: str) -> Problem:
    return Problem(document.file, document.line_of(location), title, field_path(location) or None, message)
