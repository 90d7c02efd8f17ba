"""``POST /v1/audio/speech``: text in, PCM at 24 kHz or WAV out, in pieces whose lengths mean nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web
from openai.types.audio.speech_create_params import SpeechCreateParams

from libs.audio.wav import wav_header
from services.rehearsal.http_exchange import Exchange, Piece, exchanged, json_body
from services.rehearsal.offered import SPEECH
from services.rehearsal.outputs import Frame
from services.rehearsal.refusals import ApiError, missing
from services.rehearsal.shapes import check_request

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

LONGEST_INPUT = 4096  # characters
RATE_HZ = 24_000
_BYTES_PER_S = 2 * RATE_HZ
_VOICES = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse", "marin"),
    "cedar",
)
_OF_TTS_1 = {"alloy", "ash", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer"}
_FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
_CHARACTERS_PER_TOKEN = 4
_AUDIO_TOKENS_PER_S = 20


def speech_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    return [web.post("/v1/audio/speech", exchanged(rehearsal, "speech", _speak))]


async def _speak(exchange: Exchange) -> web.StreamResponse:
    rehearsal, record = exchange.rehearsal, exchange.record
    body = await json_body(exchange.request)
    record.model = str(body.get("model") or "")
    record.asked = {name: body.get(name) for name in ("voice", "response_format", "instructions", "speed")}
    record.asked["input"] = str(body.get("input"))[:LONGEST_INPUT]
    _check(body)
    rehearsal.offered.require(record.model, SPEECH)
    await exchange.meet_faults()
    pcm = rehearsal.speech.encoded(body["input"], "audio/pcm")
    if exchange.fault("odd_bytes") is not None:
        pcm = pcm[:-1]
    seconds = len(pcm) / _BYTES_PER_S
    record.answer = {"seconds": round(seconds, 3)}
    record.usage = _usage(body, seconds)
    header = wav_header(RATE_HZ) if body.get("response_format") == "wav" else b""
    speed = rehearsal.settings.speed
    first_s = rehearsal.settings.speech_first_byte_ms / 1000
    pieces = pieces_of(header + pcm, _BYTES_PER_S, exchange, first_s=first_s, speed=speed)
    if body.get("stream_format") == "sse":
        return await exchange.send_events(_events(pieces, record.usage), first_s=first_s)
    return await exchange.send(pieces, "audio/wav" if header else "audio/pcm")


def pieces_of(audio: bytes, bytes_per_s: int, exchange: Exchange, *, first_s: float, speed: float) -> Iterator[Piece]:
    """``audio`` cut anywhere, even inside a sample, as a network does; made ``speed`` times as fast as it plays."""
    rng = exchange.rehearsal.new_rng()
    at, delay_s = 0, first_s
    while at < len(audio):
        most = bytes_per_s // 12  # some 80 ms at a time
        data = audio[at : at + rng.randint(most // 2, 2 * most)]
        at += len(data)
        media_s = len(data) / bytes_per_s
        yield Piece(data, delay_s, media_s)
        delay_s = media_s / speed


def _events(pieces: Iterator[Piece], usage: Frame) -> Iterator[tuple[Frame, float]]:
    for piece in pieces:
        yield {"type": "speech.audio.delta", "audio": base64.b64encode(piece.data).decode()}, piece.delay_s
    yield {"type": "speech.audio.done", "usage": usage}, 0.0


def _usage(body: Frame, seconds: float) -> Frame:
    text = (len(body["input"]) + len(body.get("instructions") or "")) // _CHARACTERS_PER_TOKEN + 1
    audio = round(seconds * _AUDIO_TOKENS_PER_S)
    return {"input_tokens": text, "output_tokens": audio, "total_tokens": text + audio}


def _check(body: Frame) -> None:
    for name in ("model", "input", "voice"):
        if name not in body:
            raise missing(name)
    text, voice, audio_format = body["input"], body["voice"], body.get("response_format", "mp3")
    if isinstance(text, str) and not 1 <= len(text) <= LONGEST_INPUT:
        code, bound = (
            ("string_above_max_length", f"at most {LONGEST_INPUT}") if text else ("string_below_min_length", "1")
        )
        message = f"[{{'type': '{code}', 'loc': ('body', 'input'), 'msg': 'String should have {bound} characters'}}]"
        raise ApiError(400, message, code=code, param="input")
    if isinstance(voice, str):
        known = _OF_TTS_1 if str(body["model"]).startswith("tts-1") else set(_VOICES)
        if voice not in known:
            names = ", ".join(f"'{name}'" for name in _VOICES if name in known)
            message = f"Invalid value: '{voice}'. Supported values are: {names}."
            raise ApiError(400, message, code="invalid_value", param="voice")
    if audio_format not in _FORMATS:
        names = ", ".join(f"'{name}'" for name in _FORMATS)
        message = f"Invalid value: '{audio_format}'. Supported values are: {names}."
        raise ApiError(400, message, code="invalid_value", param="response_format")
    speed = body.get("speed", 1.0)
    if isinstance(speed, int | float) and not 0.25 <= speed <= 4.0:
        raise ApiError(400, "Invalid 'speed': expected 0.25 to 4.0.", code="invalid_value", param="speed")
    check_request(SpeechCreateParams, body)
    if body.get("stream_format") == "sse" and body["model"].startswith("tts-1"):
        message = f"'sse' is not supported for {body['model']}."
        raise ApiError(400, message, code="unsupported_value", param="stream_format")
    if audio_format not in ("wav", "pcm"):
        message = f"The rehearsal server has no encoder for '{audio_format}': ask for 'pcm' or 'wav'."
        raise ApiError(400, message, code="unsupported_value", param="response_format")
