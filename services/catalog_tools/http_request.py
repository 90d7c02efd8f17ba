"""From a declared tool and the model's arguments to an HTTP request, and from its answer to what is told. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from libs.contracts.external_tools import PLACEHOLDER, SECRET, HttpTool
from libs.contracts.tool import ToolReply, ToolRequest
from libs.plugins.outcome import failed, reply_of


class RequestError(ValueError):
    """Arguments that make no request; one sentence for the model."""


class MissingSecretError(ValueError):
    """A secret that the document names and the settings do not have."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """What is sent."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


def build(tool: HttpTool, request: ToolRequest, secrets: Mapping[str, str]) -> HttpCall:
    """The request of a tool call.

    Raises:
        RequestError: a value would lead elsewhere than the document means.
        MissingSecretError: see there.
    """
    values = _values(request)
    url = PLACEHOLDER.sub(lambda match: _in_url(match[1], values), tool.url)
    query = {name: _text(value, values, secrets) for name, value in tool.query.items() if _is_given(value, values)}
    if query:
        url += ("&" if "?" in url else "?") + urlencode(query)
    headers = {name: _text(value, values, secrets) for name, value in tool.headers.items() if _is_given(value, values)}
    for name, value in headers.items():
        if not value.isprintable():
            raise RequestError(f"The value for {name} holds control characters.")
    body = None if tool.body is None else json.dumps(_filled(tool.body, values), ensure_ascii=False).encode()
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    return HttpCall(tool.method, url, headers, body)


def _values(request: ToolRequest) -> dict[str, Any]:
    of_the_call = {
        "call.id": request.call,
        "call.org": request.org,
        "call.caller": request.caller,
        "call.agent": request.agent,
        "call.tool_call_id": request.tool_call_id,
    }
    return {name: value for name, value in request.arguments.items() if value is not None} | of_the_call


def _in_url(name: str, values: Mapping[str, Any]) -> str:
    """Escaped; nothing that would name another path (RFC 3986 §5.2.4)."""
    text = _plain(values.get(name, ""))
    if text in ("", ".", ".."):
        raise RequestError(f"{name} is needed, and cannot be {text!r}.")
    return quote(text, safe="")


def _is_given(template: str, values: Mapping[str, Any]) -> bool:
    """A value that is one placeholder is left out with its parameter."""
    only = PLACEHOLDER.fullmatch(template)
    return only is None or only[1].startswith(SECRET) or only[1] in values


def _text(template: str, values: Mapping[str, Any], secrets: Mapping[str, str]) -> str:
    def fill(name: str) -> str:
        if not name.startswith(SECRET):
            return _plain(values.get(name, ""))
        if name.removeprefix(SECRET) not in secrets:
            raise MissingSecretError(f"TOOL_SECRETS has no {name.removeprefix(SECRET)!r}")
        return secrets[name.removeprefix(SECRET)]

    return PLACEHOLDER.sub(lambda match: fill(match[1]), template)


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The body: one placeholder alone takes the value as it is, numbers stay numbers."""
    if isinstance(template, str):
        only = PLACEHOLDER.fullmatch(template)
        if only is not None:
            return values.get(only[1])
        return PLACEHOLDER.sub(lambda match: _plain(values.get(match[1], "")), template)
    if isinstance(template, dict):
        return {
            key: _filled(value, values)
            for key, value in template.items()
            if not isinstance(value, str) or _is_given(value, values)
        }
    return [_filled(value, values) for value in template] if isinstance(template, list) else template


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def answer_of(tool: HttpTool, status: int, data: bytes) -> ToolReply:
    """What the model is told of an answer."""
    if status not in tool.allowed_status:
        return failed(f"The tool {tool.name} failed (HTTP status {status}).")
    wanted = tool.response
    try:
        found = at_pointer(_content(data), wanted.pointer)
    except (LookupError, ValueError):
        return failed(f"The tool {tool.name} gave an answer without the expected content.")
    if wanted.template is not None:
        found = {"say": PLACEHOLDER.sub(lambda match: _field(found, match[1]), wanted.template)}
    return reply_of(tool.name, found, wanted.most_bytes)


def _content(data: bytes) -> Any:
    if not data.strip():
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {"text": data.decode("utf-8", "replace")}


def at_pointer(value: Any, pointer: str) -> Any:
    """The part of a JSON value that a pointer names (RFC 6901 §4).

    Raises:
        LookupError, ValueError: there is none.
    """
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list):
            value = value[int(key)]
        elif isinstance(value, dict):
            value = value[key]
        else:
            raise LookupError(key)
    return value


def _field(value: Any, path: str) -> str:
    for name in path.split("."):
        try:
            value = value[int(name)] if isinstance(value, list) else value[name]
        except (LookupError, TypeError, ValueError):
            return ""
    return _plain(value)
