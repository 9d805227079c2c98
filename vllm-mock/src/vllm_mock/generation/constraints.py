"""Answers that must have a form: JSON for `response_format` and `structured_outputs`, calls of tools.

A model that is held to a schema writes something that fits it; the mock writes the least that fits."""

import json
import zlib
from dataclasses import dataclass
from typing import Any

from vllm_mock.generation.errors import Refused
from vllm_mock.generation.replica import Asked, Replica
from vllm_mock.generation.request_body import Body, ChatBody, JsonObject, NamedToolChoice

_DEEPEST = 16
"""Schemas may refer to themselves."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The tool that the answer calls."""

    name: str
    arguments: str
    finish_reason: str
    """`tool_calls`, but `stop` where the client named the tool (vLLM's rule)."""
    answer_id: str

    def call_id(self, choice: int) -> str:
        return f"chatcmpl-tool-{zlib.crc32(f'{self.answer_id}{choice}{self.name}'.encode()):016x}"


def constrain(replica: Replica, body: Body, asked: Asked) -> ToolChoice | None:
    """Lay down the words of an answer whose form the client asked for; the tool, where it is a call."""
    tool = _tool(replica, body, asked) if isinstance(body, ChatBody) else None
    text = tool.arguments if tool is not None else _formed(body)
    if text is not None:
        tokens = replica.tokenizer.encode(text)
        for sequence in asked.sequences:
            replica.scripts.lay_down(sequence.request_id, tokens)
    return tool


def check_tools(replica: Replica, body: ChatBody) -> None:
    """Raises Refused where tools are asked for that the server does not offer, or that are not there."""
    if body.tools and body.tool_choice == "auto" and not replica.options.auto_tool_choice:
        raise Refused(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    if isinstance(body.tool_choice, NamedToolChoice):
        name = body.tool_choice.function.name
        if all(tool.function.name != name for tool in body.tools or ()):
            message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
            raise Refused.value(message, "tool_choice")


def _tool(replica: Replica, body: ChatBody, asked: Asked) -> ToolChoice | None:
    tools, choice = body.tools, body.tool_choice
    if not tools or choice is None or choice == "none":
        return None
    if body.messages[-1].get("role") == "tool":
        # The tool has answered: now the model speaks.
        return None
    named = choice.function.name if isinstance(choice, NamedToolChoice) else None
    function = next((tool.function for tool in tools if tool.function.name == named), tools[0].function)
    arguments = json.dumps(example(function.parameters or {}), ensure_ascii=False)
    return ToolChoice(function.name, arguments, "tool_calls" if named is None else "stop", asked.id)


def _formed(body: Body) -> str | None:
    structured, wanted = body.structured_outputs, body.response_format
    if structured is not None and structured.choice:
        return structured.choice[0]
    if structured is not None and structured.json_schema is not None:
        schema = structured.json_schema
        return _written(json.loads(schema) if isinstance(schema, str) else schema)
    if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is not None:
        return _written(wanted.json_schema.json_schema or {})
    if (structured is not None and structured.json_object) or (wanted is not None and wanted.type == "json_object"):
        return _written({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]})
    return None


def _written(schema: JsonObject) -> str:
    return json.dumps(example(schema), ensure_ascii=False)


def example(schema: JsonObject) -> Any:
    """A small value that fits a JSON schema, as far as schemas for language models go: types, enums, required and
    optional properties, bounds, references and alternatives. Patterns and formats are not read."""
    return _example(schema, schema, 0)


def _example(schema: JsonObject, root: JsonObject, depth: int) -> Any:
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return None if depth > _DEEPEST else _example(_referred(schema["$ref"], root), root, depth + 1)
    for alternatives in ("anyOf", "oneOf"):
        if schema.get(alternatives):
            return _example(schema[alternatives][-1 if depth > _DEEPEST else 0], root, depth + 1)
    if schema.get("allOf"):
        merged: JsonObject = {}
        for part in schema["allOf"]:
            merged |= part
        return _example(merged, root, depth + 1)
    return _of_type(schema, root, depth)


def _of_type(schema: JsonObject, root: JsonObject, depth: int) -> Any:
    kind: Any = schema.get("type", "object" if "properties" in schema else "string")
    match str(kind[0] if isinstance(kind, list) else kind):  # pyright: ignore[reportUnknownArgumentType]
        case "object":
            properties: JsonObject = schema.get("properties", {})
            required = schema.get("required", [])
            names = list(properties) if depth < _DEEPEST else required
            return {name: _example(properties.get(name, {}), root, depth + 1) for name in names}
        case "array":
            count = max(schema.get("minItems", 1), 1 if depth < _DEEPEST else 0)
            return [_example(schema.get("items", {}), root, depth + 1) for _ in range(count)]
        case "integer":
            return int(max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1))
        case "number":
            return float(max(schema.get("minimum", 0.5), schema.get("exclusiveMinimum", -0.5) + 1))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "word ".ljust(schema.get("minLength", 4), "x")[: schema.get("maxLength", None)].strip() or "word"


def _referred(reference: str, root: JsonObject) -> JsonObject:
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target.get(part, {}) if isinstance(target, dict) else {}  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return target if isinstance(target, dict) else {}  # pyright: ignore[reportUnknownVariableType]
