"""CustomResourceDefinitions of the inference objects, generated from their wire types.

The definitions differ from the picker's own validation in a few fields, which `Definition.schema` lists. The API server
accepts what the inference extension's definitions accept, and the picker then reports it in the object's status. The
API server rejects what those definitions reject. `python -m picker.resources.crd FOLDER` writes the files that the
chart installs.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel

from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, ROUTER_GROUP
from picker.resources.objective_wire import InferenceModelRewriteV1Alpha2, InferenceObjectiveV1Alpha2
from picker.resources.pool_wire import InferenceModelV1Alpha2, InferencePoolV1, InferencePoolV1Alpha2
from picker.resources.status_wire import (
    ConditionsStatus,
    InferencePoolStatusV1,
    InferencePoolStatusV1Alpha2,
    StatusWire,
)
from picker.resources.wire import Object

Schema = dict[str, Any]
"""A structural OpenAPI schema."""

BUNDLE_VERSION = "v1.6.0"
"""The release of the inference extension whose schema the v1 InferencePool has. Its conformance suite reads it."""

_GROUP: Schema = {"maxLength": 253, "pattern": r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"}
_KIND: Schema = {"minLength": 1, "maxLength": 63, "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}
_ANY_REFERENCE: Schema = {"enum": None}
"""Drops the picker's own list of kinds: a reference that cannot be resolved is reported in the status."""
_NO_DEFAULT: Schema = {"default": None}
_LABEL_VALUE: Schema = {
    "additionalProperties": {
        "type": "string",
        "maxLength": 63,
        "pattern": r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
    }
}


def _rule(rule: str, message: str) -> Schema:
    return {"x-kubernetes-validations": [{"rule": rule, "message": message}]}


def _reference(path: str) -> dict[str, Schema]:
    """The schema of the reference at `path`."""
    return {
        f"{path}.group": _GROUP | _ANY_REFERENCE,
        f"{path}.kind": _KIND | _ANY_REFERENCE,
        f"{path}.name": {"minLength": 1, "maxLength": 253},
    }


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"


_AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class Definition:
    """A kind in one group and version."""

    wire: type[Object]
    group: str
    version: str
    kind: str
    short_name: str
    status: type[StatusWire]
    columns: Sequence[Column]
    schema: Mapping[str, Schema] = field(default_factory=dict[str, Schema])
    """Keys to set (None: to drop) in the schema of a field of the spec, by its path. `[]` means a list's items."""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def plural(self) -> str:
        return self.kind.lower() + "s"

    @property
    def name(self) -> str:
        return f"{self.plural}.{self.group}"


def _objective(group: str) -> Definition:
    return Definition(
        wire=InferenceObjectiveV1Alpha2,
        group=group,
        version="v1alpha2",
        kind="InferenceObjective",
        short_name="infobj" if group == ROUTER_GROUP else "xinfobj",
        status=ConditionsStatus,
        columns=(
            Column("Inference Pool", ".spec.poolRef.name"),
            Column("Priority", ".spec.priority", "integer"),
            _AGE,
        ),
        schema={**_reference("poolRef"), "priority": _NO_DEFAULT},
    )


def _rewrite(group: str) -> Definition:
    return Definition(
        wire=InferenceModelRewriteV1Alpha2,
        group=group,
        version="v1alpha2",
        kind="InferenceModelRewrite",
        short_name="infrewrite" if group == ROUTER_GROUP else "xinfrewrite",
        status=ConditionsStatus,
        columns=(Column("Inference Pool", ".spec.poolRef.name"), _AGE),
        schema={
            **_reference("poolRef"),
            "rules[].targets": {"minItems": 1},
            "rules[].targets[].modelRewrite": {"minLength": None},
            "rules[].targets[].weight": _NO_DEFAULT,
        },
    )


DEFINITIONS: Sequence[Definition] = (
    Definition(
        wire=InferencePoolV1,
        group=POOL_GROUP_V1,
        version="v1",
        kind="InferencePool",
        short_name="infpool",
        status=InferencePoolStatusV1,
        columns=(
            Column("Ports", ".spec.targetPorts[*].number"),
            Column("Picker", ".spec.endpointPickerRef.name"),
            Column("Strategy", '.status.parents[0].conditions[?(@.type=="RoutingStrategy")].reason'),
            Column("Settings", '.status.parents[0].conditions[?(@.type=="Settings")].reason'),
            Column("Accepted", '.status.parents[0].conditions[?(@.type=="Accepted")].status'),
            Column("Resolved", '.status.parents[0].conditions[?(@.type=="ResolvedRefs")].status'),
            _AGE,
        ),
        schema={
            **_reference("endpointPickerRef"),
            "endpointPickerRef": _rule(
                "self.kind != 'Service' || has(self.port)",
                "port is required when kind is 'Service' or unspecified (defaults to 'Service')",
            ),
            "endpointPickerRef.port": _NO_DEFAULT | {"required": ["number"]},
            "endpointPickerRef.port.number": _NO_DEFAULT,
            "targetPorts": {"x-kubernetes-list-type": "atomic"}
            | _rule("self.all(p1, self.exists_one(p2, p1.number == p2.number))", "port number must be unique"),
            "selector.matchLabels": _LABEL_VALUE,
        },
        annotations={
            # Groups under k8s.io need an approval of the Kubernetes project: this is the approval of this API.
            "api-approved.kubernetes.io": (
                "https://github.com/kubernetes-sigs/gateway-api-inference-extension/pull/1173"
            ),
            "inference.networking.k8s.io/bundle-version": BUNDLE_VERSION,
        },
    ),
    Definition(
        wire=InferencePoolV1Alpha2,
        group=POOL_GROUP_V1ALPHA2,
        version="v1alpha2",
        kind="InferencePool",
        short_name="xinfpool",
        status=InferencePoolStatusV1Alpha2,
        columns=(
            Column("Port", ".spec.targetPortNumber", "integer"),
            Column("Picker", ".spec.extensionRef.name"),
            Column("Strategy", '.status.parent[0].conditions[?(@.type=="RoutingStrategy")].reason'),
            Column("Settings", '.status.parent[0].conditions[?(@.type=="Settings")].reason'),
            Column("Accepted", '.status.parent[0].conditions[?(@.type=="Accepted")].status'),
            Column("Resolved", '.status.parent[0].conditions[?(@.type=="ResolvedRefs")].status'),
            _AGE,
        ),
        schema={
            **_reference("extensionRef"),
            "": {"required": ["extensionRef", "selector", "targetPortNumber"]},
            "extensionRef.portNumber": _NO_DEFAULT,
            "selector": _LABEL_VALUE | {"minProperties": None},
        },
    ),
    Definition(
        wire=InferenceModelV1Alpha2,
        group=POOL_GROUP_V1ALPHA2,
        version="v1alpha2",
        kind="InferenceModel",
        short_name="infmodel",
        status=ConditionsStatus,
        columns=(
            Column("Model Name", ".spec.modelName"),
            Column("Inference Pool", ".spec.poolRef.name"),
            Column("Criticality", ".spec.criticality"),
            Column("Accepted", '.status.conditions[?(@.type=="Accepted")].status'),
            _AGE,
        ),
        schema={
            **_reference("poolRef"),
            "modelName": {"minLength": None} | _rule("self == oldSelf", "modelName is immutable"),
            "criticality": _NO_DEFAULT,
            "targetModels": _rule(
                "self.all(model, has(model.weight)) || self.all(model, !has(model.weight))",
                "Weights should be set for all models, or none of the models.",
            ),
            "targetModels[].name": {"minLength": None},
        },
    ),
    *(definition(group) for group in (ROUTER_GROUP, POOL_GROUP_V1ALPHA2) for definition in (_objective, _rewrite)),
)


def crd(definition: Definition) -> Schema:
    """The CustomResourceDefinition."""
    spec = _structural(definition.wire, "validation")["properties"]["spec"]
    for path, changes in definition.schema.items():
        _change(_at(spec, path), changes)
    status = _structural(definition.status, "serialization")
    columns = [{"name": column.name, "type": column.type, "jsonPath": column.path} for column in definition.columns]
    schema: Schema = {
        "description": (definition.wire.__doc__ or "").strip(),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    version: Schema = {
        "name": definition.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.name, "annotations": dict(definition.annotations)},
        "spec": {
            "group": definition.group,
            "scope": "Namespaced",
            "names": {
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                "singular": definition.kind.lower(),
                "shortNames": [definition.short_name],
            },
            "versions": [version],
        },
    }


def _structural(model: type[BaseModel], mode: Any) -> Schema:
    """pydantic's schema of `model` without references, alternatives and titles, which a structural schema must not
    have."""
    whole = model.model_json_schema(by_alias=True, mode=mode)
    return cast(Schema, _flat(whole, whole.get("$defs", {})))


def _flat(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_flat(item, definitions) for item in cast(list[Any], node)]
    if not isinstance(node, dict):
        return node
    schema = dict(cast(Schema, node))
    if alternatives := schema.pop("anyOf", None):
        [only] = [option for option in alternatives if option.get("type") != "null"]
        schema = only | {key: value for key, value in schema.items() if value is not None}
    if reference := schema.pop("$ref", None):
        referred = definitions[reference.removeprefix("#/$defs/")]
        schema = referred | schema
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]
    if schema.get("type") == "integer":
        schema["format"] = "int64" if "maximum" not in schema else "int32"
    # The default of an empty object or list means the same as its absence.
    drop = {"$defs", "title"} | ({"default"} if schema.get("default", 0) in (None, [], {}) else set[str]())
    flat = {key: _flat(value, definitions) for key, value in schema.items() if key not in drop | {"properties"}}
    if "properties" in schema:
        flat["properties"] = {name: _flat(field, definitions) for name, field in schema["properties"].items()}
    return flat


def _at(spec: Schema, path: str) -> Schema:
    node = spec
    for part in filter(None, path.split(".")):
        node = node["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            node = node["items"]
    return node


def _change(schema: Schema, changes: Schema) -> None:
    for key, value in changes.items():
        if value is None:
            schema.pop(key, None)
        else:
            schema[key] = value


def write(folder: Path) -> None:
    """Write one file per definition, with the definition's name."""
    folder.mkdir(parents=True, exist_ok=True)
    for definition in DEFINITIONS:
        text = yaml.safe_dump(crd(definition), sort_keys=False, width=120)
        (folder / f"{definition.name}.yaml").write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
