"""ElevenLabs' endpoints: ``POST /v1/text-to-speech/{voice_id}[/stream]``, ``GET /v1/voices``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from services.rehearsal.elevenlabs import (
    DEFAULT_FORMAT,
    VOICES,
    ElevenLabsError,
    ShapeError,
    check_format,
    check_key,
    check_voice,
    read_body,
    rehearsed,
)
from services.rehearsal.http_exchange import Exchange, exchanged
from services.rehearsal.http_speech import pieces_of
from services.rehearsal.outputs import Frame

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal


class _Desk:
    """Counts the requests at work, of which a subscription allows so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy = 0

    def __enter__(self) -> None:
        if self._most and self._busy >= self._most:
            message = f"Your current subscription is associated with a maximum of {self._most} concurrent requests."
            limits = {"current-concurrent-requests": str(self._busy), "maximum-concurrent-requests": str(self._most)}
            raise ElevenLabsError(429, "too_many_concurrent_requests", message, headers=limits)
        self._busy += 1

    def __exit__(self, *_: object) -> None:
        self._busy -= 1


def elevenlabs_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    desk = _Desk(rehearsal.settings.elevenlabs_concurrency)

    async def speak(exchange: Exchange) -> web.StreamResponse:
        _authorise(exchange)
        with desk:
            return await _speak(exchange)

    handler = exchanged(rehearsal, "elevenlabs", speak)
    return [
        web.post("/v1/text-to-speech/{voice_id}/stream", handler),
        web.post("/v1/text-to-speech/{voice_id}", handler),
        web.get("/v1/voices", exchanged(rehearsal, "elevenlabs", _guarded(_list_voices))),
        web.get("/v1/voices/{voice_id}", exchanged(rehearsal, "elevenlabs", _guarded(_one_voice))),
    ]


def _guarded(
    handler: Callable[[Exchange], Awaitable[web.StreamResponse]],
) -> Callable[[Exchange], Awaitable[web.StreamResponse]]:
    async def guarded(exchange: Exchange) -> web.StreamResponse:
        _authorise(exchange)
        return await handler(exchange)

    return guarded


def _authorise(exchange: Exchange) -> None:
    exchange.refusal_of = rehearsed
    exchange.headers = {"request-id": exchange.record.id}
    check_key(exchange.rehearsal.settings.api_key, exchange.request.headers.get("xi-api-key", ""))


async def _list_voices(exchange: Exchange) -> web.StreamResponse:
    await exchange.meet_faults()
    return await exchange.send_json({"voices": list(VOICES.values())})


async def _one_voice(exchange: Exchange) -> web.StreamResponse:
    voice_id = exchange.request.match_info["voice_id"]
    check_voice(voice_id)
    await exchange.meet_faults()
    return await exchange.send_json(VOICES[voice_id])


async def _speak(exchange: Exchange) -> web.StreamResponse:
    rehearsal, record, request = exchange.rehearsal, exchange.record, exchange.request
    fields = await _body(request)
    body = read_body(fields)
    voice_id, output_format = request.match_info["voice_id"], request.query.get("output_format", DEFAULT_FORMAT)
    record.model = body.model_id
    record.asked = {"voice_id": voice_id, "output_format": output_format, **fields}
    check_voice(voice_id)
    audio_format, bytes_per_s, content_type = check_format(output_format)
    await exchange.meet_faults()
    audio = rehearsal.speech.encoded(body.text, audio_format)
    if exchange.fault("odd_bytes") is not None:
        audio = audio[: (len(audio) - 1) | 1]
    record.answer = {"seconds": round(len(audio) / bytes_per_s, 3)}
    record.usage = {"characters": len(body.text)}
    exchange.headers["character-cost"] = str(len(body.text))
    settings = rehearsal.settings
    pieces = pieces_of(audio, bytes_per_s, exchange, first_s=settings.speech_first_byte_ms / 1000, speed=settings.speed)
    return await exchange.send(pieces, content_type)


async def _body(request: web.Request) -> Frame:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise ShapeError([{"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error"}]) from None
    if not isinstance(body, dict):
        raise ShapeError([{"type": "model_attributes_type", "loc": ["body"], "msg": "Input should be an object"}])
    return body
