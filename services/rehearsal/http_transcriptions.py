"""``POST /v1/audio/transcriptions``: a recording in, what the caller said out, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiohttp import web
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)

from services.rehearsal.http_exchange import Exchange, Piece, exchanged
from services.rehearsal.listening import Heard
from services.rehearsal.offered import TRANSCRIPTION
from services.rehearsal.outputs import Frame
from services.rehearsal.transcription_request import TranscriptionRequest, read_transcription_request

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

_BY_DURATION = {"gpt-transcribe", "whisper-1"}
_MS_PER_TOKEN = 100
_CHARACTERS_PER_TOKEN = 4
_WORDS_PER_DELTA = 2
_DELTA_S = 0.02
_UNREADABLE = {"malformed_json", "missing_field", "wrong_content_type"}  # a client asks again


def transcription_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    return [web.post("/v1/audio/transcriptions", exchanged(rehearsal, "transcriptions", _transcribe))]


async def _transcribe(exchange: Exchange) -> web.StreamResponse:
    rehearsal, record, query = exchange.rehearsal, exchange.record, exchange.request.query
    request = await read_transcription_request(exchange.request)
    record.model = request.model
    record.asked = {"file": request.filename, "ms": request.duration_ms, **request.fields}
    rehearsal.offered.require(request.model, TRANSCRIPTION)
    heard = rehearsal.listener.hear(
        request.pcm,
        conversation=query.get("conversation", ""),
        scenario=query.get("scenario"),
        prompt=request.fields.get("prompt", ""),
    )
    record.scenario, record.turn = heard.scenario, heard.turn
    record.asked["match"] = heard.how
    await exchange.meet_faults(heard.turn or 0)
    response = await _answer(exchange, request, heard)
    if record.completed and not _UNREADABLE.intersection(record.faults):
        rehearsal.listener.answered(heard)
    return response


async def _answer(exchange: Exchange, request: TranscriptionRequest, heard: Heard) -> web.StreamResponse:
    rehearsal, record = exchange.rehearsal, exchange.record
    text = "" if exchange.fault("empty_transcript") is not None else heard.text
    record.answer, record.usage = text, _usage(request, text)
    delay_s = rehearsal.settings.transcribe_ms / 1000
    if request.stream:
        return await exchange.send_events(_events(exchange, request, text, heard), first_s=delay_s)
    if request.response_format == "text":
        pieces = [Piece(f"{text}\n".encode(), delay_s)]
        return await exchange.send(pieces, "text/plain; charset=utf-8", length_known=True)
    if request.response_format == "verbose_json":
        return await exchange.send_json(_verbose(exchange, request, text, heard), delay_s=delay_s)
    body: Frame = {"text": text, **_languages(request, text, heard), "usage": record.usage}
    return await exchange.send_json(exchange.check(Transcription, body), delay_s=delay_s)


def _events(
    exchange: Exchange, request: TranscriptionRequest, text: str, heard: Heard
) -> Iterator[tuple[Frame, float]]:
    words = text.split(" ") if text else []
    for start in range(0, len(words), _WORDS_PER_DELTA):
        end = start + _WORDS_PER_DELTA
        delta = " ".join(words[start:end]) + (" " if end < len(words) else "")
        event: Frame = {"type": "transcript.text.delta", "delta": delta}
        yield exchange.check(TranscriptionTextDeltaEvent, event), _DELTA_S
    # The event's type has token usage only, whatever the model is billed by.
    done: Frame = {"type": "transcript.text.done", "text": text, **_languages(request, text, heard)}
    done["usage"] = _tokens(request, text)
    yield exchange.check(TranscriptionTextDoneEvent, done), 0.0


def _verbose(exchange: Exchange, request: TranscriptionRequest, text: str, heard: Heard) -> Frame:
    seconds = request.duration_ms / 1000
    body: Frame = {
        "duration": seconds,
        "language": {"de": "german", "en": "english"}.get(heard.language, heard.language),
        "text": text,
        "usage": {"type": "duration", "seconds": seconds},
    }
    if "word" in request.granularities:
        words = text.split()
        step = seconds / max(1, len(words))
        body["words"] = [
            {"word": word.strip(".,!?"), "start": round(i * step, 2), "end": round((i + 1) * step, 2)}
            for i, word in enumerate(words)
        ]
    return exchange.check(TranscriptionVerbose, body)


def _languages(request: TranscriptionRequest, text: str, heard: Heard) -> dict[str, Any]:
    if request.model != "gpt-transcribe":
        return {}
    return {"languages": [{"code": heard.language}] if text else []}


def _usage(request: TranscriptionRequest, text: str) -> Frame:
    if request.model in _BY_DURATION:
        return {"type": "duration", "seconds": request.duration_ms / 1000}
    return _tokens(request, text)


def _tokens(request: TranscriptionRequest, text: str) -> Frame:
    audio = max(1, round(request.duration_ms / _MS_PER_TOKEN))
    prompt = len(request.fields.get("prompt", "")) // _CHARACTERS_PER_TOKEN
    output = max(1, len(text) // _CHARACTERS_PER_TOKEN)
    return {
        "type": "tokens",
        "input_tokens": audio + prompt,
        "output_tokens": output,
        "total_tokens": audio + prompt + output,
        "input_token_details": {"audio_tokens": audio, "text_tokens": prompt},
    }
