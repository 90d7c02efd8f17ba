"""What ElevenLabs' text-to-speech takes and refuses (its API reference, "Stream speech" and "WebSocket").

Errors are ``{"detail": {"status", "message"}}``, those of a body's shape a list as FastAPI writes it.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from services.rehearsal.outputs import Frame
from services.rehearsal.refusals import ApiError

# The longest text and whether `language_code` may enforce a language.
MODELS: dict[str, tuple[int, bool]] = {
    "eleven_flash_v2_5": (40_000, True),
    "eleven_turbo_v2_5": (40_000, True),
    "eleven_multilingual_v2": (10_000, False),
    "eleven_v3": (5_000, True),
}
DEFAULT_MODEL = "eleven_multilingual_v2"
DEFAULT_FORMAT = "mp3_44100_128"
# Their name, our name (see ``speech.encode``), bytes per second, content type.
FORMATS: dict[str, tuple[str, int, str]] = {
    "ulaw_8000": ("audio/pcmu", 8_000, "audio/basic"),
    "alaw_8000": ("audio/pcma", 8_000, "audio/x-alaw-basic"),
    "pcm_8000": ("audio/pcm;rate=8000", 16_000, "audio/pcm"),
    "pcm_16000": ("audio/pcm;rate=16000", 32_000, "audio/pcm"),
    "pcm_24000": ("audio/pcm;rate=24000", 48_000, "audio/pcm"),
}
_OTHER_FORMATS = {
    *("mp3_22050_32", "mp3_24000_48", "mp3_44100_32", "mp3_44100_64", "mp3_44100_96", "mp3_44100_128"),
    *("mp3_44100_192", "pcm_22050", "pcm_32000", "pcm_44100", "pcm_48000"),
    *("opus_48000_32", "opus_48000_64", "opus_48000_96", "opus_48000_128", "opus_48000_192"),
}
_LANGUAGES = {"de", "en", "fr", "es", "it", "nl", "pl", "pt", "cs", "da", "sv", "fi", "tr", "hu", "ro", "uk", "ru"}


class ElevenLabsError(ApiError):
    """A refusal in ElevenLabs' shape. ``status_name`` is ``detail.status``."""

    def __init__(self, status: int, status_name: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, code=status_name, headers=headers)

    def body(self) -> dict[str, object]:
        return {"detail": {"status": self.code, "message": self.message}}


class ShapeError(ApiError):
    """422: a body whose fields are not as they must be; ``problems`` as FastAPI lists them."""

    def __init__(self, problems: list[Frame]) -> None:
        super().__init__(422, "; ".join(str(problem["msg"]) for problem in problems))
        self._problems = problems

    def body(self) -> dict[str, object]:
        return {"detail": self._problems}


def rehearsed(status: int, retry_after_s: float | None = None, code: str | None = None) -> ApiError:
    """What a fault orders, as ElevenLabs answers with this status."""
    known = {
        401: ("invalid_api_key", "Invalid API key"),
        402: ("payment_required", "Your subscription has an unpaid invoice."),
        403: ("forbidden", "This voice is not available to your subscription."),
        404: ("voice_not_found", "A voice with this voice_id was not found."),
        429: ("too_many_concurrent_requests", "Too many concurrent requests."),
    }
    messages = {
        "quota_exceeded": "This request exceeds your quota. You have 0 credits remaining.",
        "system_busy": "We are currently experiencing heavy traffic. Please try again.",
    }
    name, message = known.get(status, ("internal_server_error", "A rehearsed refusal."))
    if status == 422:
        return ShapeError([{"type": "value_error", "loc": ["body"], "msg": "A rehearsed refusal.", "input": None}])
    headers = {} if retry_after_s is None else {"Retry-After": str(round(retry_after_s))}
    return ElevenLabsError(status, code or name, messages.get(code or "", message), headers=headers)


class VoiceSettings(BaseModel):
    """How a voice is varied; absent fields keep what is stored with the voice."""

    model_config = ConfigDict(extra="ignore")  # as FastAPI does

    stability: Annotated[float, Field(ge=0, le=1)] | None = None
    similarity_boost: Annotated[float, Field(ge=0, le=1)] | None = None
    style: Annotated[float, Field(ge=0, le=1)] | None = None
    use_speaker_boost: bool | None = None
    speed: float | None = None


class SpeechBody(BaseModel):
    """The body of ``POST /v1/text-to-speech/{voice_id}/stream``."""

    model_config = ConfigDict(extra="ignore")

    text: str
    model_id: str = DEFAULT_MODEL
    language_code: str | None = None
    voice_settings: VoiceSettings | None = None
    pronunciation_dictionary_locators: list[Any] | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    previous_text: str | None = None
    next_text: str | None = None
    previous_request_ids: Annotated[list[str], Field(max_length=3)] | None = None
    next_request_ids: Annotated[list[str], Field(max_length=3)] | None = None
    apply_text_normalization: Literal["auto", "on", "off"] = "auto"
    apply_language_text_normalization: bool = False


def read_body(body: Frame) -> SpeechBody:
    """Raises ShapeError (422) or ElevenLabsError (400)."""
    try:
        parsed = SpeechBody.model_validate(body)
    except ValidationError as error:
        raise ShapeError(
            [
                {"type": one["type"], "loc": ["body", *one["loc"]], "msg": one["msg"], "input": one["input"]}
                for one in error.errors(include_url=False)
            ]
        ) from error
    check_model(parsed.model_id, parsed.language_code)
    check_settings(parsed.voice_settings)
    longest, _ = MODELS[parsed.model_id]
    if not parsed.text.strip():
        raise ElevenLabsError(400, "input_text_empty", "Input text cannot be empty.")
    if len(parsed.text) > longest:
        message = f"A maximum of {longest} characters is allowed, {len(parsed.text)} were given."
        raise ElevenLabsError(400, "max_character_limit_exceeded", message)
    return parsed


def check_model(model_id: str, language_code: str | None) -> None:
    """Raises ElevenLabsError (400)."""
    if model_id not in MODELS:
        raise ElevenLabsError(400, "model_not_found", f"A model with model ID {model_id} does not exist.")
    if language_code is not None and (language_code not in _LANGUAGES or not MODELS[model_id][1]):
        message = f"Model '{model_id}' does not support the language_code '{language_code}'."
        raise ElevenLabsError(400, "unsupported_language", message)


def check_settings(settings: VoiceSettings | None) -> None:
    """Raises ElevenLabsError (400)."""
    if settings is not None and settings.speed is not None and not 0.7 <= settings.speed <= 1.2:
        message = "Invalid setting for speed received, expected to be greater or equal to 0.7 and less or equal to 1.2"
        raise ElevenLabsError(400, "invalid_voice_settings", f"{message}, received {settings.speed}")


def check_format(output_format: str) -> tuple[str, int, str]:
    """The entry of ``FORMATS``. Raises ShapeError (422), or ElevenLabsError where only this server has no encoder."""
    if output_format in FORMATS:
        return FORMATS[output_format]
    if output_format in _OTHER_FORMATS:
        message = f"The rehearsal server has no encoder for '{output_format}': ask for {', '.join(FORMATS)}."
        raise ElevenLabsError(400, "output_format_not_allowed", message)
    problem = {"type": "enum", "loc": ["query", "output_format"], "msg": "Input should be a known output format"}
    raise ShapeError([{**problem, "input": output_format}])


def _voice(voice_id: str, name: str, language: str, gender: str) -> Frame:
    labels = {"language": language, "accent": "standard", "gender": gender, "age": "middle_aged"}
    labels["use_case"] = "conversational"
    return {
        "voice_id": voice_id,
        "name": name,
        "category": "premade",
        "labels": labels,
        "description": None,
        "preview_url": None,
        "available_for_tiers": [],
        "settings": None,
        "high_quality_base_model_ids": list(MODELS),
        "verified_languages": [
            {"language": language, "model_id": model_id, "accent": "standard", "locale": None, "preview_url": None}
            for model_id in MODELS
        ],
    }


# The German ones are this server's own; the others are those that ElevenLabs' documentation uses in examples.
VOICES: dict[str, Frame] = {
    voice["voice_id"]: voice
    for voice in (
        _voice("RehearsalDeutschW001", "Deutsch, weiblich", "de", "female"),
        _voice("RehearsalDeutschM001", "Deutsch, männlich", "de", "male"),
        _voice("JBFqnCBsd6RMkjVDRZzb", "English, male", "en", "male"),
        _voice("21m00Tcm4TlvDq8ikWAM", "English, female", "en", "female"),
    )
}


def check_voice(voice_id: str) -> None:
    """Raises ElevenLabsError (404)."""
    if voice_id not in VOICES:
        raise ElevenLabsError(404, "voice_not_found", f"A voice with the voice_id {voice_id} was not found.")


def check_key(wanted: SecretStr | None, key: str) -> None:
    """Raises ElevenLabsError (401) unless ``key`` is the one that is ``wanted``; any is, if None."""
    if not key:
        message = "Neither authorization header nor xi-api-key received, please provide one."
        raise ElevenLabsError(401, "needs_authorization", message)
    if wanted is not None and not secrets.compare_digest(key, wanted.get_secret_value()):
        raise ElevenLabsError(401, "invalid_api_key", "Invalid API key")
