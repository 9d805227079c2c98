"""ConfigMaps that map adapters to their base model, in the form of llm-d's payload processor
(https://github.com/llm-d/llm-d-inference-payload-processor)."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Field

from picker.resources.inference import ModelAdapters
from picker.resources.wire import Object, Wire
from picker.resources.yaml_documents import Document, documents

MANAGED_LABEL = "inference.llm-d.ai/ipp-managed"
"""Label of the ConfigMaps that are read, with the value `true`."""

MAX_LIST_CHARACTERS = 256 << 10
"""Limit on the text of one list of adapters. Judgement: a thousand adapters with the longest names fit."""

MAX_ADAPTERS = 4096
"""Limit on the adapters of one ConfigMap. Judgement: a server loads hundreds at most."""

ModelName = Annotated[str, Field(min_length=1, max_length=256)]


def _listed(value: object) -> object:
    """The entries of a list in YAML. Numbers become text, as upstream reads them. Raises ValueError."""
    if not isinstance(value, str) or len(value) > MAX_LIST_CHARACTERS:
        raise ValueError(f"allowed is the text of a YAML list of at most {MAX_LIST_CHARACTERS} characters")
    found = list(documents(value, "adapters"))
    if not found:
        return ()
    [document, *more] = found
    entries = document.value if isinstance(document, Document) else None
    if more or not isinstance(entries, list):
        raise ValueError("allowed is the text of one YAML list")
    entries = cast("list[object]", entries)
    if not all(isinstance(entry, str | int) and not isinstance(entry, bool) for entry in entries):
        raise ValueError("allowed are names of models")
    return tuple(dict.fromkeys(map(str, entries)))


Adapters = Annotated[tuple[ModelName, ...], BeforeValidator(_listed), Field(max_length=MAX_ADAPTERS)]


class AdaptersData(Wire):
    """The data of the ConfigMap. Other keys are not read."""

    model_config = ConfigDict(extra="ignore")

    base_model: ModelName
    adapters: Adapters = ()


class ConfigMap(Object):
    not_read: ClassVar = frozenset({"status", "binaryData", "immutable"})

    kind: Literal["ConfigMap"]
    data: AdaptersData

    def adapters(self) -> ModelAdapters:
        return ModelAdapters(self.name, self.data.base_model, self.data.adapters, self.metadata.creation_timestamp)


def is_managed(fields: Mapping[str, object]) -> bool:
    """Whether the label of a ConfigMap says that it lists adapters."""
    metadata = fields.get("metadata")
    labels = cast("Mapping[str, object]", metadata).get("labels") if isinstance(metadata, Mapping) else None
    return isinstance(labels, Mapping) and cast("Mapping[str, object]", labels).get(MANAGED_LABEL) == "true"
