"""ConfigMaps of adapters, as llm-d's payload processor defines them."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from picker.resources.inference import ModelAdapters
from picker.resources.model_adapters import MANAGED_LABEL
from picker.resources.parse import Parsed, Skipped, parse
from picker.resources.problems import Problem


def config_map(label: str | None = "true", **data: Any) -> str:
    labels = {MANAGED_LABEL: label} if label is not None else {}
    metadata = {"name": "qwen", "namespace": "team", "labels": labels}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def parsed(text: str) -> Parsed | Skipped | Problem:
    [result] = parse(text, "models.yaml")
    return result


def test_adapters_are_read() -> None:
    """Numbers are names, as in upstream's processor. Other keys are ignored."""
    result = parsed(config_map(baseModel="Qwen/Qwen3", adapters="- sql-lora\n- foo\n- 1\n- foo\n", other="x"))
    assert isinstance(result, Parsed)
    assert isinstance(result.object, ModelAdapters)
    assert (result.object.base_model, result.object.adapters) == ("Qwen/Qwen3", ("sql-lora", "foo", "1"))


def test_base_model_without_adapters_is_read() -> None:
    result = parsed(config_map(baseModel="qwen"))
    assert isinstance(result, Parsed)
    assert isinstance(result.object, ModelAdapters)
    assert result.object.adapters == ()


@pytest.mark.parametrize("label", [None, "false"])
def test_other_config_maps_are_skipped(label: str | None) -> None:
    assert isinstance(parsed(config_map(label, anything="{")), Skipped)


@pytest.mark.parametrize(
    "data",
    [
        {"adapters": "- a"},
        {"baseModel": ""},
        {"baseModel": "x" * 257},
        {"baseModel": "a", "adapters": "{"},
        {"baseModel": "a", "adapters": "b: c"},
        {"baseModel": "a", "adapters": "- {b: c}"},
        {"baseModel": "a", "adapters": "- true"},
        {"baseModel": "a", "adapters": "- ''"},
        {"baseModel": "a", "adapters": "- a\n---\n- b"},
        {"baseModel": "a", "adapters": "- a\n" * 70_000},
        {"baseModel": "a", "adapters": "".join(f"- {number}\n" for number in range(4097))},
    ],
)
def test_invalid_data_is_a_problem(data: dict[str, str]) -> None:
    assert isinstance(parsed(config_map(**data)), Problem)


@given(st.text(max_size=200))
def test_any_text_is_read_or_a_problem(text: str) -> None:
    assert isinstance(parsed(config_map(baseModel="a", adapters=text)), Parsed | Problem)
