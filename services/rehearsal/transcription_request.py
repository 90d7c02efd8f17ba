"""Reads the form of ``POST /v1/audio/transcriptions`` as strictly as the API does."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from libs.audio.wav import WavError, read_wav
from services.rehearsal.refusals import ApiError, invalid, missing, unknown_parameter
from services.rehearsal.speech import to_8k

FORMATS = ("flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav", "webm")
_CONTENT_TYPES = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/mp4": "mp4",
    "audio/ogg": "ogg",
    "audio/webm": "webm",
}
_MAGIC = {
    "flac": (b"fLaC",),
    "ogg": (b"OggS",),
    "oga": (b"OggS",),
    "webm": (b"\x1aE\xdf\xa3",),
    "mp3": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
    "mpga": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
    "mpeg": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\0\0\x01"),
}
_SHORTEST_MS = 100
_FIELDS = {
    *("file", "model", "chunking_strategy", "include", "keywords", "known_speaker_names"),
    *("known_speaker_references", "language", "languages", "prompt", "response_format", "stream", "temperature"),
    "timestamp_granularities",
}
_LISTS = {"include", "keywords", "known_speaker_names", "known_speaker_references", "languages"}
_LISTS |= {"timestamp_granularities"}
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """A request in order. ``pcm`` is at 8 kHz, mono; None in a container other than WAV."""

    model: str
    filename: str
    pcm: bytes | None
    duration_ms: int
    response_format: str = "json"
    stream: bool = False
    granularities: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)


async def read_transcription_request(request: web.Request) -> TranscriptionRequest:
    """Raises ApiError (400, 413, 415) for the first thing that the API refuses."""
    if request.content_type != "multipart/form-data":
        message = f"Unsupported content type: '{request.content_type}'. This API method only accepts"
        raise ApiError(415, f"{message} 'multipart/form-data' requests.", code="unsupported_content_type")
    try:
        form = await request.post()
    except ValueError as error:
        raise ApiError(400, f"Could not parse multipart form: {error}") from error
    upload: object = None
    fields: dict[str, Any] = {}
    for key in form:
        name, bracket = (key.partition("[")[0], "[" in key)
        if name not in _FIELDS:
            raise unknown_parameter(key)
        if name == "file":
            upload = form[key]
        elif bracket and name in _LISTS:
            fields[name] = [str(value) for value in form.getall(key)]
        else:
            fields[name] = str(form[key])
    if upload is None:
        raise missing("file")
    if not isinstance(upload, web.FileField):
        raise invalid("file", "expected an uploaded file with a name")
    if not fields.get("model"):
        raise ApiError(400, "you must provide a model parameter", param="model")
    model = fields.pop("model")
    _check_fields(model, fields)
    pcm, duration_ms = _read_audio(upload)
    return TranscriptionRequest(
        model=model,
        filename=upload.filename,
        pcm=pcm,
        duration_ms=duration_ms,
        response_format=fields.get("response_format", "json"),
        # "will be ignored" for whisper-1 (API reference, `stream`)
        stream=_boolean(fields.pop("stream", "false"), "stream") and model != "whisper-1",
        granularities=tuple(fields.get("timestamp_granularities", ())),
        fields=fields,
    )


def _boolean(value: str, param: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise invalid(param, "Input should be a valid boolean")
    return value.lower() == "true"


def _check_fields(model: str, fields: dict[str, Any]) -> None:
    _check_response_format(model, fields)
    for name in ("keywords", "languages"):
        if name in fields and model != "gpt-transcribe":
            raise _unsupported(f"'{name}' is not supported with model '{model}'.", name)
    if "prompt" in fields and model == "gpt-4o-transcribe-diarize":
        raise _unsupported("Prompt is not supported with diarization models.", "prompt")
    if "language" in fields and "languages" in fields:
        raise ApiError(
            400, "'language' and 'languages' cannot be used together.", code="invalid_value", param="languages"
        )
    for name in ("language", "languages"):
        given = fields.get(name, [])
        for code in [given] if isinstance(given, str) else given:
            if not _LANGUAGE.fullmatch(code):
                message = f"Invalid language '{code}'. Language parameter must be specified in ISO-639-1 format."
                raise ApiError(400, message, code="invalid_language_format", param=name)
    try:
        cold = 0.0 <= float(fields.get("temperature", 0)) <= 1.0
    except ValueError:
        cold = False
    if not cold:
        raise invalid("temperature", "expected a number from 0 to 1")


def _check_response_format(model: str, fields: dict[str, Any]) -> None:
    wanted = fields.get("response_format", "json")
    if wanted not in _RESPONSE_FORMATS:
        names = ", ".join(f"'{name}'" for name in _RESPONSE_FORMATS)
        message = f"Invalid value: '{wanted}'. Supported values are: {names}."
        raise ApiError(400, message, code="invalid_value", param="response_format")
    allowed = {
        "whisper-1": _RESPONSE_FORMATS[:5],
        "gpt-transcribe": ("json", "text"),
        "gpt-4o-transcribe-diarize": ("json", "text", "diarized_json"),
    }
    if wanted not in allowed.get(model, ("json",)):
        message = f"response_format '{wanted}' is not compatible with model '{model}'. Use 'json' instead."
        raise _unsupported(message, "response_format")
    if wanted not in ("json", "text", "verbose_json"):
        raise _unsupported(f"The rehearsal server does not write '{wanted}': ask for 'json'.", "response_format")
    if "timestamp_granularities" in fields and wanted != "verbose_json":
        message = "timestamp_granularities needs response_format 'verbose_json'."
        raise ApiError(400, message, code="invalid_value", param="timestamp_granularities")


def _unsupported(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="unsupported_value", param=param)


def _read_audio(upload: web.FileField) -> tuple[bytes | None, int]:
    data = upload.file.read()
    extension = upload.filename.rpartition(".")[2].lower() if "." in upload.filename else ""
    if extension not in FORMATS:
        extension = extension or _CONTENT_TYPES.get(upload.content_type.partition(";")[0], "")
    if extension not in FORMATS:
        raise ApiError(400, f"Unrecognized file format. Supported formats: {list(FORMATS)}", param="file")
    corrupt = ApiError(400, "Audio file might be corrupted or unsupported", code="invalid_value", param="file")
    if extension != "wav":
        if not data.startswith(_MAGIC.get(extension, ())) if extension in _MAGIC else data[4:8] != b"ftyp":
            raise corrupt
        return None, 0
    try:
        wav = read_wav(data)
    except WavError as error:
        raise corrupt from error
    if wav.duration_ms < _SHORTEST_MS:
        message = "Audio file is too short. Minimum audio length is 0.1 seconds."
        raise ApiError(400, message, code="audio_too_short", param="file")
    return to_8k(wav.pcm, wav.rate_hz, wav.channels), wav.duration_ms
