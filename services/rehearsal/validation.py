"""Checks of both directions of the wire against the event models of the ``openai`` package.

The package's models allow extra fields and lax types, because its clients must survive a newer server.
Here both are errors: the stand-in is there to tell a client what the real server would refuse.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from openai.types import realtime
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import BaseModel, ValidationError

from services.rehearsal.outputs import Frame


class ClientEventError(ValueError):
    """A client event that the Realtime API answers with an ``error`` event.

    ``code`` and ``param`` are the fields of that event; the session stays open.
    """

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class ServerEventError(AssertionError):
    """The stand-in itself produced an event that the package's models do not accept."""


def _by_type(union: Any) -> dict[str, type[BaseModel]]:
    return {c.model_fields["type"].annotation.__args__[0]: c for c in get_args(get_args(union)[0])}


CLIENT_EVENTS = _by_type(RealtimeClientEvent)
SERVER_EVENTS = _by_type(RealtimeServerEvent)
SESSIONS: dict[str, type[BaseModel]] = {
    "realtime": realtime.RealtimeSessionCreateRequest,
    "transcription": realtime.RealtimeTranscriptionSessionCreateRequest,
}
ITEMS: dict[tuple[str, str | None], type[BaseModel]] = {
    ("message", "system"): realtime.RealtimeConversationItemSystemMessage,
    ("message", "user"): realtime.RealtimeConversationItemUserMessage,
    ("message", "assistant"): realtime.RealtimeConversationItemAssistantMessage,
    ("function_call", None): realtime.RealtimeConversationItemFunctionCall,
    ("function_call_output", None): realtime.RealtimeConversationItemFunctionCallOutput,
    ("mcp_approval_response", None): realtime.RealtimeMcpApprovalResponse,
}

# Sent by the real server although the models do not name them.
_UNTYPED_SERVER_FIELDS = {
    "session.id",
    "session.object",
    "session.expires_at",
    "response.status_details.error.message",
}


def validate_client_event(event: Any) -> Frame:
    """Return ``event`` if the Realtime API would accept its shape.

    Raises ClientEventError with the path of the first offending field.
    """
    if not isinstance(event, dict):
        raise ClientEventError("An event must be a JSON object.", code="invalid_json")
    kind = event.get("type")
    if kind is None:
        raise ClientEventError("Missing required parameter: 'type'.", code="missing_required_parameter", param="type")
    if not isinstance(kind, str) or kind not in CLIENT_EVENTS:
        supported = ", ".join(f"'{name}'" for name in CLIENT_EVENTS)
        raise ClientEventError(
            f"Invalid value: '{kind}'. Supported values are: {supported}.", code="invalid_value", param="type"
        )
    if kind == "session.update":
        _validate_member(event, "session", _session_model(event.get("session")))
    elif kind == "conversation.item.create":
        _validate_member(event, "item", _item_model(event.get("item")))
    _validate(CLIENT_EVENTS[kind], event, prefix="")
    return event


def validate_server_event(frame: Frame) -> None:
    """Raise ServerEventError unless ``frame`` is a complete event of the package's union."""
    model = SERVER_EVENTS.get(frame.get("type", ""))
    if model is None:
        raise ServerEventError(f"not a server event: {frame.get('type')!r}")
    try:
        parsed = model.model_validate(frame, strict=True)
    except ValidationError as error:
        raise ServerEventError(f"{frame['type']}: {error}") from error
    extra = [path for path in unknown_fields(parsed, "") if path not in _UNTYPED_SERVER_FIELDS]
    if extra:
        raise ServerEventError(f"{frame['type']}: fields unknown to the models: {', '.join(extra)}")


def decode_client_event(text: str | bytes) -> Any:
    """The JSON of a frame. Raises ClientEventError."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ClientEventError(f"Could not parse your message as JSON: {error}.", code="invalid_json") from None


def is_plain_append(event: Any) -> bool:
    """Whether an event is an append that needs no further check of its shape."""
    # 50 of these a second per call: the model's two checks by hand, for a tenth of the time.
    return (
        isinstance(event, dict)
        and event.get("type") == "input_audio_buffer.append"
        and isinstance(event.get("audio"), str)
        and event.keys() <= {"type", "audio", "event_id"}
        and isinstance(event.get("event_id", ""), str)
    )


def warm_up() -> None:
    """Build the models' validators, which the package defers until first use (about half a second)."""
    for model in (*CLIENT_EVENTS.values(), *SESSIONS.values(), *ITEMS.values()):
        model.model_rebuild(force=False)


def _session_model(session: Any) -> type[BaseModel]:
    kind = session.get("type") if isinstance(session, dict) else None
    if kind is None:
        raise ClientEventError(
            "Missing required parameter: 'session.type'.",
            code="missing_required_parameter",
            param="session.type",
        )
    model = SESSIONS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise ClientEventError(
            f"Invalid value: '{kind}'. Supported values are: 'realtime', 'transcription'.",
            code="invalid_value",
            param="session.type",
        )
    return model


def _item_model(item: Any) -> type[BaseModel]:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind is None:
        raise ClientEventError(
            "Missing required parameter: 'item.type'.", code="missing_required_parameter", param="item.type"
        )
    role = item.get("role") if kind == "message" else None
    model = ITEMS.get((kind, role)) if isinstance(kind, str) and isinstance(role, str | None) else None
    if model is None:
        param = "item.role" if kind == "message" else "item.type"
        raise ClientEventError(
            f"Invalid value: '{role if kind == 'message' else kind}'.", code="invalid_value", param=param
        )
    return model


def _validate_member(event: Frame, name: str, model: type[BaseModel]) -> None:
    # Chosen by hand instead of through the package's union, whose errors name every alternative.
    _validate(model, event[name], prefix=name)


def _validate(model: type[BaseModel], value: Any, *, prefix: str) -> None:
    try:
        parsed = model.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = field_path(prefix, first["loc"])
        if first["type"] == "missing":
            raise ClientEventError(
                f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param
            ) from error
        raise ClientEventError(
            f"Invalid value for '{param}': {first['msg']}.", code="invalid_value", param=param
        ) from error
    unknown = unknown_fields(parsed, prefix)
    if unknown:
        raise ClientEventError(f"Unknown parameter: '{unknown[0]}'.", code="unknown_parameter", param=unknown[0])


def field_path(prefix: str, location: tuple[int | str, ...]) -> str:
    """A field's place as the API writes it: ``item.content[0].text``."""
    path = prefix
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part[:1].isupper() and "[" not in part and part.replace("_", "").isalnum():
            # What is left out here names the alternative of a union: a class, or a type such as list[str].
            path += f".{part}" if path else part
    return path


def unknown_fields(value: Any, path: str) -> list[str]:
    """The paths of all fields that a parsed model of the package has no name for."""
    found: list[str] = []
    if isinstance(value, BaseModel):
        dot = f"{path}." if path else ""
        found.extend(f"{dot}{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            found.extend(unknown_fields(getattr(value, name), f"{dot}{name}"))
    elif isinstance(value, list):
        for index, element in enumerate(value):
            found.extend(unknown_fields(element, f"{path}[{index}]"))
    return found
