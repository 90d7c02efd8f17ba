"""The WebSocket of ElevenLabs' ``stream-input``: carries messages, in time and as far as the faults let them go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
from aiohttp import WSMsgType, web

from services.rehearsal.elevenlabs import (
    DEFAULT_FORMAT,
    DEFAULT_MODEL,
    ElevenLabsError,
    check_format,
    check_key,
    check_model,
    check_voice,
    rehearsed,
)
from services.rehearsal.elevenlabs_stream import Spoken, TextStream
from services.rehearsal.http_exchange import Exchange, exchanged
from services.rehearsal.outputs import Close, Output
from services.rehearsal.refusals import ApiError

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

_INACTIVITY_S = 20.0


class _Closed(Exception):
    """The connection is over; ends its tasks."""


def stream_input_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    return [web.get("/v1/text-to-speech/{voice_id}/stream-input", exchanged(rehearsal, "elevenlabs", _stream_input))]


async def _stream_input(exchange: Exchange) -> web.StreamResponse:
    exchange.refusal_of = rehearsed
    query, record = exchange.request.query, exchange.record
    record.model = query.get("model_id", DEFAULT_MODEL)
    record.asked = {"voice_id": exchange.request.match_info["voice_id"], **query}
    await exchange.meet_faults()
    socket = web.WebSocketResponse(max_msg_size=2**20)
    await socket.prepare(exchange.request)
    record.status = 101
    exchange.rehearsal.sockets.add(socket)
    stream, refusal = _text_stream(exchange)
    connection = _Connection(exchange, socket, stream)
    try:
        await connection.run(refusal)
    finally:
        record.answer = stream.text
        record.usage = {"characters": stream.characters}
    return socket


def _text_stream(exchange: Exchange) -> tuple[TextStream, ApiError | None]:
    """The core, and what is wrong with the URL: the API says so over the socket."""
    rehearsal, request = exchange.rehearsal, exchange.request
    key, wanted = request.headers.get("xi-api-key"), rehearsal.settings.api_key
    audio_format, bytes_per_s, refusal = "audio/pcmu", 8000, None
    try:
        if key is not None:
            check_key(wanted, key)
        check_voice(request.match_info["voice_id"])
        check_model(exchange.record.model, request.query.get("language_code"))
        audio_format, bytes_per_s, _ = check_format(request.query.get("output_format", DEFAULT_FORMAT))
    except ApiError as error:
        refusal = error
    stream = TextStream(
        lambda text: rehearsal.speech.encoded(text, audio_format),
        bytes_per_s,
        auto_mode=request.query.get("auto_mode") == "true",
        check_key=None if key is not None else lambda sent: check_key(wanted, sent),
    )
    return stream, refusal


class _Connection:
    def __init__(self, exchange: Exchange, socket: web.WebSocketResponse, stream: TextStream) -> None:
        self._exchange, self._socket, self._stream = exchange, socket, stream
        # Bounded by the text that the client sends, which it is billed for elsewhere.
        self._outputs: asyncio.Queue[Spoken | Output] = asyncio.Queue()

    async def run(self, refusal: ApiError | None) -> None:
        """Serve until either side closes."""
        if refusal is not None:
            self._put(self._stream.refuse(refusal))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write())
                tasks.create_task(self._read())
        except* (_Closed, ConnectionError):
            pass

    async def _read(self) -> None:
        idle_s = float(self._exchange.request.query.get("inactivity_timeout", _INACTIVITY_S))
        while not self._stream.closed:
            try:
                message = await self._socket.receive(timeout=idle_s)
            except TimeoutError:
                text = f"Have not received a new text input within the timeout of {idle_s} seconds."
                self._put(self._stream.refuse(ElevenLabsError(408, "input_timeout_exceeded", text)))
                return
            if message.type is not WSMsgType.TEXT:
                raise _Closed
            self._put(self._stream.receive(message.data))

    def _put(self, outputs: list[Spoken | Output]) -> None:
        for output in outputs:
            self._outputs.put_nowait(output)

    async def _write(self) -> None:
        settings = self._exchange.rehearsal.settings
        sent = 0
        while True:
            output = await self._outputs.get()
            match output:
                case Spoken(frame=frame, seconds=seconds):
                    await self._break_off(sent)
                    slow = self._exchange.fault("slow_drip")
                    pace_s = seconds / slow.factor if slow is not None else seconds / settings.speed
                    await self._exchange.pause(pace_s if sent else settings.speech_first_byte_ms / 1000)
                    await self._send(frame)
                    sent += 1
                case Close(code=code, reason=reason):
                    self._exchange.record.completed = code == 1000
                    await self._socket.close(code=code, message=reason.encode(), drain=True)
                    raise _Closed
                case dict():
                    await self._send(output)

    async def _send(self, frame: object) -> None:
        text = orjson.dumps(frame).decode()
        self._exchange.record.sent_bytes += len(text)
        await self._socket.send_str(text)

    async def _break_off(self, index: int) -> None:
        """Let strike what strikes before audio message ``index``."""
        stall = self._exchange.fault("stall")
        if stall is not None and index == (stall.after_deltas or 0):
            await self._exchange.pause((stall.duration_ms or 1e9) / 1000)
        close = self._exchange.fault("close")
        if close is not None and index == (close.after_deltas or 0):
            await self._socket.close(code=close.code, message=close.reason.encode())
            raise _Closed
        abort = self._exchange.fault("abort")
        if abort is not None and index == (abort.after_deltas or 0):
            if self._exchange.request.transport is not None:
                self._exchange.request.transport.abort()
            raise _Closed
