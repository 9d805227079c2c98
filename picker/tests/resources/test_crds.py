"""The chart's CustomResourceDefinitions equal the picker's wire types."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from picker.resources.crd import BUNDLE_VERSION, DEFINITIONS, Definition, crd
from picker.resources.parse import KINDS

CHART = Path(__file__).parents[3] / "charts" / "inference-gateway" / "charts" / "crds" / "crds"


def schema(definition: Definition) -> dict[str, Any]:
    [version] = crd(definition)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def nodes(node: Any) -> list[dict[str, Any]]:
    """All objects in a schema, itself included."""
    if isinstance(node, list):
        return [found for item in node for found in nodes(item)]
    if isinstance(node, dict):
        return [node, *(found for item in node.values() for found in nodes(item))]
    return []


def test_the_chart_installs_the_generated_definitions() -> None:
    """After a change of the types run `make crds`."""
    installed = {path.name: yaml.safe_load(path.read_text()) for path in CHART.glob("*.yaml")}
    assert installed == {f"{definition.name}.yaml": crd(definition) for definition in DEFINITIONS}


UPSTREAM = Path(__file__).parent / "upstream" / f"inferencepools.{BUNDLE_VERSION}.yaml"


def comparable(node: Any) -> Any:
    """Returns a schema without what does not restrict objects: descriptions, orders, and spaces in rules."""
    if isinstance(node, list):
        return [comparable(item) for item in node]
    if isinstance(node, str):
        return "".join(node.split())
    if not isinstance(node, dict):
        return node
    made = {key: comparable(value) for key, value in node.items()}
    if isinstance(made.get("required"), list):
        made["required"].sort()
    if isinstance(made.get("description"), str):
        del made["description"]
    if made.get("minLength") == 0:
        del made["minLength"]
    return made


def test_the_v1_pool_equals_the_inference_extensions() -> None:
    """The API server accepts and defaults the same objects as with upstream's definition of this bundle version."""
    ours = next(crd(item) for item in DEFINITIONS if item.version == "v1")
    upstream = yaml.safe_load(UPSTREAM.read_text())
    assert ours["metadata"] == upstream["metadata"]
    assert ours["spec"]["names"] == upstream["spec"]["names"]
    [our_version], [upstream_version] = ours["spec"]["versions"], upstream["spec"]["versions"]
    assert comparable(our_version["schema"]) == comparable(upstream_version["schema"])


def test_every_inference_kind_has_a_definition() -> None:
    """In every group and version."""
    read = {(kind, version) for kind in KINDS if kind.startswith("Inference") for version in KINDS[kind]}
    assert {(item.kind, f"{item.group}/{item.version}") for item in DEFINITIONS} == read


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda item: item.name)
def test_a_schema_is_structural(definition: Definition) -> None:
    """An API server accepts no references, no alternatives, and no closed objects."""
    forbidden = {"$ref", "$defs", "anyOf", "oneOf", "const", "title"}
    for node in nodes(schema(definition)):
        if "type" in node and not isinstance(node["type"], dict):
            assert not forbidden & node.keys(), node
            assert node.get("additionalProperties") is not False


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda item: item.name)
def test_every_string_list_and_map_is_bounded(definition: Definition) -> None:
    """The object of a tenant cannot exceed the limits of its readers."""
    of_object = schema(definition)["properties"]
    for node in nodes([of_object["spec"], of_object["status"]]):
        match node.get("type"):
            case "string":
                assert node.keys() & {"maxLength", "enum", "format"}, node
            case "array":
                assert "maxItems" in node, node
            case "object" if isinstance(node.get("additionalProperties"), dict):
                assert "maxProperties" in node, node
            case _:
                pass


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda item: item.name)
def test_status_is_a_subresource_and_the_table_has_the_age(definition: Definition) -> None:
    """Only the controller writes statuses."""
    [version] = crd(definition)["spec"]["versions"]
    assert version["subresources"] == {"status": {}}
    assert version["additionalPrinterColumns"][-1]["name"] == "Age"


def test_names_in_tables_are_unique() -> None:
    """A short name of two kinds would be ambiguous."""
    names = [definition.short_name for definition in DEFINITIONS]
    assert len(set(names)) == len(names)
