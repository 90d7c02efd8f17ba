"""Checks of both directions of the Live API's wire against the event models of the ``openai`` package."""

from __future__ import annotations

from typing import Any, get_args

from openai.types import live
from pydantic import BaseModel, ValidationError

from services.rehearsal.outputs import Frame
from services.rehearsal.validation import ClientEventError, ServerEventError, field_path, unknown_fields

_MOST_HISTORY_MESSAGES = 128
_MOST_INSTRUCTION_TOKENS = 16_384
_MOST_APPENDED_TOKENS = 500
_MOST_HISTORY_TOKENS = 8192
_CHARACTERS_PER_TOKEN = 4
_G711_HZ = 8000

_APPEND = "session.input_audio.append"
_CONTEXT = ("session.commentary.append", "session.instructions.append", "session.thinking.append")


def _by_type(union: Any) -> dict[str, type[BaseModel]]:
    return {c.model_fields["type"].annotation.__args__[0]: c for c in get_args(get_args(union)[0])}


CLIENT_EVENTS = _by_type(live.ClientEvent)
SERVER_EVENTS = _by_type(live.ServerEvent)


def validate_live_client_event(event: Any) -> Frame:
    """Return ``event`` if the Live API would accept its shape.

    Raises ClientEventError with the path of the first offending field: Live refuses unknown ones, too.
    """
    if not isinstance(event, dict):
        raise ClientEventError("An event must be a JSON object.", code="invalid_json")
    kind = event.get("type")
    if kind is None:
        raise ClientEventError("Missing required parameter: 'type'.", code="missing_required_parameter", param="type")
    if not isinstance(kind, str) or kind not in CLIENT_EVENTS:
        raise ClientEventError(f"Invalid value: '{kind}'.", code="invalid_value", param="type")
    try:
        parsed = CLIENT_EVENTS[kind].model_validate(event, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = field_path("", first["loc"])
        if first["type"] == "missing":
            raise _missing(param) from error
        raise ClientEventError(
            f"Invalid value for '{param}': {first['msg']}.", code="invalid_value", param=param
        ) from error
    # The nested Responses items are another API's types; the package lets their fields pass.
    unknown = [path for path in unknown_fields(parsed, "") if not path.startswith("item.")]
    if unknown:
        raise ClientEventError(f"Unknown parameter: '{unknown[0]}'.", code="unknown_parameter", param=unknown[0])
    if kind in _CONTEXT:
        _check_context(event)
    return event


def is_plain_live_append(event: Any) -> bool:
    """Whether an event is an append of audio that needs no further check of its shape: 50 of these a second."""
    return (
        isinstance(event, dict)
        and event.get("type") == _APPEND
        and isinstance(event.get("audio"), str)
        and event.keys() <= {"type", "audio", "event_id"}
    )


def validate_session(session: Frame) -> None:
    """What the API demands of a start beyond its types. Raises ClientEventError."""
    audio_format = (session.get("audio") or {}).get("format")
    if audio_format is None:
        raise _missing("session.audio.format")
    if audio_format["type"] != "audio/pcm" and audio_format["rate"] != _G711_HZ:
        raise ClientEventError(
            f"Invalid value: '{audio_format['rate']}'. G.711 audio uses 8000 Hz.",
            code="invalid_value",
            param="session.audio.format.rate",
        )
    history = session.get("input") or []
    if len(history) > _MOST_HISTORY_MESSAGES:
        raise _too_long("session.input", f"at most {_MOST_HISTORY_MESSAGES} messages", "array_above_max_length")
    for index, message in enumerate(history):
        if len(message["content"]) != 1:
            raise _too_long(f"session.input[{index}].content", "exactly one text part", "invalid_value")
    if tokens("".join(message["content"][0]["text"] for message in history)) > _MOST_HISTORY_TOKENS:
        raise _too_long("session.input", f"at most {_MOST_HISTORY_TOKENS} tokens", "string_above_max_length")
    if tokens(session.get("instructions") or "") > _MOST_INSTRUCTION_TOKENS:
        raise _too_long("session.instructions", f"at most {_MOST_INSTRUCTION_TOKENS} tokens", "string_above_max_length")


def validate_live_server_event(frame: Frame) -> None:
    """Raise ServerEventError unless ``frame`` is a complete event of the package's union."""
    model = SERVER_EVENTS.get(frame.get("type", ""))
    if model is None:
        raise ServerEventError(f"not a server event of Live: {frame.get('type')!r}")
    try:
        parsed = model.model_validate(frame, strict=True)
    except ValidationError as error:
        raise ServerEventError(f"{frame['type']}: {error}") from error
    extra = unknown_fields(parsed, "")
    if extra:
        raise ServerEventError(f"{frame['type']}: fields unknown to the models: {', '.join(extra)}")


def tokens(text: str) -> int:
    """An estimate; exact counting would need the model's vocabulary."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def warm_up_live() -> None:
    """Build the models' validators, which the package defers until first use."""
    for model in CLIENT_EVENTS.values():
        model.model_rebuild(force=False)


def _check_context(event: Frame) -> None:
    if "delegation_id" not in event:  # required, and may be null
        raise _missing("delegation_id")
    if tokens(event["content"]) > _MOST_APPENDED_TOKENS:
        raise _too_long("content", f"at most {_MOST_APPENDED_TOKENS} tokens", "string_above_max_length")


def _missing(param: str) -> ClientEventError:
    return ClientEventError(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def _too_long(param: str, limit: str, code: str) -> ClientEventError:
    return ClientEventError(f"Invalid '{param}': expected {limit}.", code=code, param=param)
