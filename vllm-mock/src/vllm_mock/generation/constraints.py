"""Constrained outputs: JSON for `response_format` and `structured_outputs`, and tool calls.

A constrained model writes text that fits its schema. The mock writes a small value that fits.
"""

import json
import zlib
from dataclasses import dataclass
from typing import Any

from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.replica import PreparedRequest, Replica
from vllm_mock.generation.request_body import Body, ChatBody, JsonObject, NamedToolChoice

_MAX_DEPTH = 16
"""Depth to which schemas are expanded, because they may be recursive. Judgement."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """A call of a tool, as the output."""

    name: str
    arguments: str
    finish_reason: str
    """`tool_calls`, or `stop` if the client named the tool (vLLM's rule)."""
    answer_id: str

    def call_id(self, choice: int) -> str:
        return f"chatcmpl-tool-{zlib.crc32(f'{self.answer_id}{choice}{self.name}'.encode()):016x}"


def constrain(replica: Replica, body: Body, prepared: PreparedRequest) -> ToolChoice | None:
    """Forces the output of a request with a constraint. Returns the tool if the output is a tool call."""
    tool = _tool(replica, body, prepared) if isinstance(body, ChatBody) else None
    text = tool.arguments if tool is not None else _constrained_text(body)
    if text is not None:
        tokens = replica.tokenizer.encode(text)
        for sequence in prepared.sequences:
            replica.forced_outputs.set(sequence.request_id, tokens)
    return tool


def check_tools(replica: Replica, body: ChatBody) -> None:
    """Raises ApiError if the server does not support the tool choice, or if it names an unknown tool."""
    if body.tools and body.tool_choice == "auto" and not replica.options.auto_tool_choice:
        raise ApiError(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    if isinstance(body.tool_choice, NamedToolChoice):
        name = body.tool_choice.function.name
        if all(tool.function.name != name for tool in body.tools or ()):
            message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
            raise ApiError.value(message, "tool_choice")


def _tool(replica: Replica, body: ChatBody, prepared: PreparedRequest) -> ToolChoice | None:
    tools, choice = body.tools, body.tool_choice
    if not tools or choice is None or choice == "none":
        return None
    if body.messages[-1].get("role") == "tool":
        # The tool's result is in, so the output is text.
        return None
    named = choice.function.name if isinstance(choice, NamedToolChoice) else None
    function = next((tool.function for tool in tools if tool.function.name == named), tools[0].function)
    arguments = json.dumps(example(function.parameters or {}), ensure_ascii=False)
    return ToolChoice(function.name, arguments, "tool_calls" if named is None else "stop", prepared.id)


def _constrained_text(body: Body) -> str | None:
    structured, response_format = body.structured_outputs, body.response_format
    if structured is not None and structured.choice:
        return structured.choice[0]
    if structured is not None and structured.json_schema is not None:
        schema = structured.json_schema
        return _example_text(json.loads(schema) if isinstance(schema, str) else schema)
    kind = response_format.type if response_format is not None else None
    if response_format is not None and kind == "json_schema" and response_format.json_schema is not None:
        return _example_text(response_format.json_schema.json_schema or {})
    if (structured is not None and structured.json_object) or kind == "json_object":
        return _example_text({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]})
    return None


def _example_text(schema: JsonObject) -> str:
    return json.dumps(example(schema), ensure_ascii=False)


def example(schema: JsonObject) -> Any:
    """A small value that fits a JSON schema.

    Supported are types, enums, required and optional properties, bounds, references and alternatives. Patterns and
    formats are ignored.
    """
    return _example(schema, schema, 0)


def _example(schema: JsonObject, root: JsonObject, depth: int) -> Any:
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return None if depth > _MAX_DEPTH else _example(_referred(schema["$ref"], root), root, depth + 1)
    for alternatives in ("anyOf", "oneOf"):
        if schema.get(alternatives):
            return _example(schema[alternatives][-1 if depth > _MAX_DEPTH else 0], root, depth + 1)
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
            names = list(properties) if depth < _MAX_DEPTH else required
            return {name: _example(properties.get(name, {}), root, depth + 1) for name in names}
        case "array":
            count = max(schema.get("minItems", 1), 1 if depth < _MAX_DEPTH else 0)
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
