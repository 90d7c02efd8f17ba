"""Reads the body of ``POST /v1/chat/completions`` as strictly as the API does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from openai.types import chat
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from services.rehearsal.outputs import Frame
from services.rehearsal.refusals import ApiError, invalid, missing
from services.rehearsal.shapes import check_request

_ROLES: dict[str, Any] = {
    "system": chat.ChatCompletionSystemMessageParam,
    "developer": chat.ChatCompletionDeveloperMessageParam,
    "user": chat.ChatCompletionUserMessageParam,
    "assistant": chat.ChatCompletionAssistantMessageParam,
    "tool": chat.ChatCompletionToolMessageParam,
}
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_LONGEST_NAME = 64
_MOST_TOOLS = 128
_TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What matters of a request that is in order."""

    model: str
    messages: list[Frame]
    tools: frozenset[str] = frozenset()
    tool_definitions: tuple[Frame, ...] = ()
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    stream: bool = False
    include_usage: bool = False
    obfuscated: bool = True
    most_tokens: int | None = None
    key: str = ""


def read_chat_request(body: Frame) -> ChatRequest:
    """Raises ApiError (400) for the first thing in ``body`` that the API refuses."""
    for name in ("model", "messages"):
        if name not in body:
            raise missing(name)
    messages, tools = body["messages"], body.get("tools")
    plain = {**body, "messages": [], "tools": []}
    stream = plain.pop("stream", None)
    if not isinstance(stream, bool | None):
        raise invalid("stream", "Input should be a valid boolean")
    check_request(CompletionCreateParamsBase, plain)
    options = body.get("stream_options") or {}
    if options and not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, message, code="invalid_value", param="stream_options")
    if body.get("n") not in (None, 1):
        raise ApiError(400, "The rehearsal server makes one choice only.", code="unsupported_value", param="n")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise ApiError(400, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    if tools is None and (body.get("parallel_tool_calls") is not None or body.get("tool_choice") is not None):
        name = "tool_choice" if body.get("tool_choice") is not None else "parallel_tool_calls"
        raise ApiError(400, f"'{name}' is only allowed when 'tools' are specified.", code="invalid_value", param=name)
    _check_messages(messages)
    names = _check_tools(tools)
    _check_choice(body.get("tool_choice"), names)
    return ChatRequest(
        model=body["model"],
        messages=messages,
        tools=names,
        tool_definitions=tuple(tools or ()),
        tool_choice=body.get("tool_choice") or "auto",
        parallel_tool_calls=body.get("parallel_tool_calls") is not False,
        stream=bool(stream),
        include_usage=bool(options.get("include_usage")),
        obfuscated=options.get("include_obfuscation") is not False,
        most_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        key=next((body[name] for name in ("prompt_cache_key", "safety_identifier", "user") if body.get(name)), ""),
    )


# -- messages --------------------------------------------------------------------------------------------


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list):
        raise ApiError(
            400, "Invalid type for 'messages': expected an array of objects.", code="invalid_type", param="messages"
        )
    if not messages:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        raise ApiError(400, f"{message} instead.", code="empty_array", param="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role is None:
            raise missing(f"{where}.role")
        if not isinstance(role, str) or role not in _ROLES:
            supported = ", ".join(f"'{name}'" for name in _ROLES)
            text = f"Invalid value: '{role}'. Supported values are: {supported}."
            raise ApiError(400, text, code="invalid_value", param=f"{where}.role")
        check_request(_ROLES[role], message, where)
        if role == "assistant" and message.get("content") is None and not message.get("tool_calls"):
            raise ApiError(
                400,
                f"Invalid value for '{where}.content': expected a string, got null.",
                code="invalid_value",
                param=f"{where}.content",
            )
        if role == "assistant" and message.get("tool_calls") == []:
            raise ApiError(
                400,
                f"Invalid '{where}.tool_calls': empty array. Expected an array with minimum length 1.",
                code="empty_array",
                param=f"{where}.tool_calls",
            )
    _check_calls_are_answered(messages)


def _check_calls_are_answered(messages: list[Frame]) -> None:
    awaited: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in awaited:
                raise ApiError(
                    400,
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with"
                    " 'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            awaited.remove(message["tool_call_id"])
            continue
        _refuse_unanswered(awaited, index)
        awaited = [call["id"] for call in message.get("tool_calls") or []]
    _refuse_unanswered(awaited, len(messages))


def _refuse_unanswered(awaited: list[str], index: int) -> None:
    if awaited:
        raise ApiError(
            400,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
            f" 'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(awaited)}",
            param=f"messages.[{index}].role",
        )


# -- tools -----------------------------------------------------------------------------------------------


def _check_tools(tools: object) -> frozenset[str]:
    if tools is None:
        return frozenset()
    if not isinstance(tools, list):
        raise ApiError(
            400, "Invalid type for 'tools': expected an array of objects.", code="invalid_type", param="tools"
        )
    if not tools or len(tools) > _MOST_TOOLS:
        code = "array_above_max_length" if tools else "empty_array"
        raise ApiError(400, f"Invalid 'tools': expected 1 to {_MOST_TOOLS} tools.", code=code, param="tools")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, dict) or "type" not in tool:
            raise missing(f"{where}.type")
        check_request(chat.ChatCompletionFunctionToolParam, tool, where)
        function = tool["function"]
        name = function["name"]
        if not _NAME.fullmatch(name):
            text = f"Invalid '{where}.function.name': string does not match pattern. Expected a string that matches"
            raise ApiError(
                400,
                f"{text} the pattern '^[a-zA-Z0-9_-]+$'.",
                code="invalid_value",
                param=f"{where}.function.name",
            )
        if len(name) > _LONGEST_NAME:
            text = f"Invalid '{where}.function.name': string too long. Expected a string with maximum length"
            param = f"{where}.function.name"
            raise ApiError(400, f"{text} {_LONGEST_NAME}.", code="string_above_max_length", param=param)
        problem = schema_problem(function.get("parameters"), strict=bool(function.get("strict")))
        if problem is not None:
            raise ApiError(
                400,
                f"Invalid schema for function '{name}': {problem}",
                code="invalid_function_parameters",
                param=f"{where}.function.parameters",
            )
        names.add(name)
    return frozenset(names)


def schema_problem(schema: object, *, strict: bool = False) -> str | None:
    """What the API finds wrong with a function's ``parameters``; None if nothing."""
    if schema is None:
        return None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        found = schema.get("type") if isinstance(schema, dict) else schema
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{found}\"'."
    return _problem(schema, (), strict)


def _problem(schema: object, path: tuple[str, ...], strict: bool) -> str | None:
    context = f"In context={path!r}"
    if not isinstance(schema, dict):
        return f"{context}, {schema!r} is not of type 'object', 'boolean'."
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind is not None and kind not in _TYPES:
            return f"{context}, {kind!r} is not valid under any of the given schemas."
    properties = schema.get("properties")
    if kinds == "object" and properties is None and strict:
        return f"{context}, object schema missing properties."
    if properties is not None and not isinstance(properties, dict):
        return f"{context}, 'properties' is not of type 'object'."
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return f"{context}, 'required' is not an array of strings."
    if kinds == "array" and "items" not in schema:
        return f"{context}, array schema missing items."
    if strict and kinds == "object":
        if schema.get("additionalProperties") is not False:
            return f"{context}, 'additionalProperties' is required to be supplied and to be false."
        if set(required) != set(properties or {}):
            return f"{context}, 'required' must be an array including every key in properties."
    members: list[tuple[tuple[str, ...], Any]] = [
        (("properties", name), member) for name, member in (properties or {}).items()
    ]
    if "items" in schema:
        members.append((("items",), schema["items"]))
    for keyword in ("anyOf", "oneOf", "allOf"):
        members += [((keyword, str(i)), member) for i, member in enumerate(schema.get(keyword) or [])]
    return next((found for where, member in members if (found := _problem(member, path + where, strict))), None)


def _check_choice(choice: object, names: frozenset[str]) -> None:
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = choice["function"]["name"]
        if name not in names:
            text = f"Invalid value for 'tool_choice': function '{name}' not found in 'tools'."
            raise ApiError(400, text, code="invalid_value", param="tool_choice")
