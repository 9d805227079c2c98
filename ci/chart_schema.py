"""Generates values.schema.json, which helm reads, and the chart's README from values.schema.yaml."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent.parent / "charts" / "inference-gateway"
Json = dict[str, Any]
_LONGEST_DEFAULT = 60
"""Characters: a longer default is cut, so that the table stays readable."""
_HEAD = """\
# {name}

{description}

Version {version}, Kubernetes {kube}, license Apache-2.0. [docs/operations.md](../../docs/operations.md) explains
installation, upgrades and removal.

```console
$ helm dependency build charts/inference-gateway
$ helm install inference-gateway charts/inference-gateway --namespace envoy-gateway-system --create-namespace
```

## Values

`make chart-schema` generates this table from `values.schema.yaml` and the defaults of `values.yaml`. Helm rejects
values that the schema does not allow.

| value | type | default | description |
|---|---|---|---|
"""


def rendered() -> str:
    """The content of values.schema.json."""
    return json.dumps(_schema(), indent=1) + "\n"


def readme() -> str:
    """The content of the chart's README.md."""
    chart: Json = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values: Json = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = _schema()
    head = _HEAD.format(
        name=chart["name"], description=chart["description"], version=chart["version"], kube=chart["kubeVersion"]
    )
    return head + "".join(f"{row}\n" for row in _rows(schema, schema, values, ""))


def _schema() -> Json:
    return yaml.safe_load((CHART / "values.schema.yaml").read_text())


def _resolved(schema: Json, root: Json) -> Json:
    """`schema` with the definition that its `$ref` names; its own keys win."""
    name: str | None = schema.get("$ref")
    if name is None:
        return schema
    definition: Json = root["$defs"][name.removeprefix("#/$defs/")]
    return definition | {key: value for key, value in schema.items() if key != "$ref"}


def _rows(schema: Json, root: Json, values: Any, path: str) -> Iterator[str]:
    """A row for each property that has no nested properties."""
    for name, raw in schema.get("properties", {}).items():
        place = f"{path}.{name}" if path else name
        described = _resolved(raw, root)
        default = values.get(name) if isinstance(values, dict) else None
        if described.get("properties"):
            if "description" in described:
                yield f"| `{place}` | object | | {_cell(described['description'])} |"
            yield from _rows(described, root, default, place)
        elif own := _own_properties(described.get("additionalProperties"), root):
            yield f"| `{place}` | object | {_default(default)} | {_cell(described['description'])} |"
            yield from _rows({"properties": own}, root, None, f"{place}.KEY")
        else:
            about = _cell(described.get("description", ""))
            yield f"| `{place}` | {_type(described)} | {_default(default)} | {about} |"


def _own_properties(entry: Json | bool | None, root: Json) -> Json:
    """Properties of a map's entries that are not those of `vllm`. Empty for a map of simple values."""
    found: Json = entry.get("properties", {}) if isinstance(entry, dict) else {}
    shared: Json = root["properties"]["vllm"]["properties"]
    return {name: schema for name, schema in found.items() if schema != shared.get(name)}


def _type(schema: Json) -> str:
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kinds: str | list[str] = schema.get("type", "any")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def _default(value: Any) -> str:
    text = "" if value is None else json.dumps(value)
    return f"`{_cell(text if len(text) <= _LONGEST_DEFAULT else text[:_LONGEST_DEFAULT] + '...')}`" if text else ""


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(rendered())
    (CHART / "README.md").write_text(readme())
