"""One Realtime connection that reads texts aloud, one after the other, outside of any conversation.

Reference: Realtime API, `response.create` with `conversation: "none"`; an empty `input` is an empty context. Output is
µ-law for calls at 8 kHz, else PCM at 24 kHz. The session has no turn detection: nobody speaks to it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import picows

from services.ai_session.backends.port import BackendError
from services.ai_session.backends.realtime_link import Endpoint, connect
from services.ai_session.voices.port import Sound

OPENED_WITHIN_S = 4.0
PCM_RATE_HZ = 24_000
_json = msgspec.json.Encoder()


@dataclass(slots=True)
class Reading:
    """One text under way: what the server sent for it, in order; None at its end."""

    pieces: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    response: str = ""
    transcript: str = ""
    status: str = ""  # of response.done, or `lost`
    code: str = ""
    detail: str = ""
    usage: Mapping[str, Any] | None = None

    def end(self, status: str, code: str = "", detail: str = "") -> None:
        """Nothing more comes."""
        self.status, self.code, self.detail = status, code, detail
        self.pieces.put_nowait(None)


class ReadingLink:
    """A connection for one sound. `free` is called when it may take the next text, `gone` when it is over."""

    def __init__(
        self,
        endpoint: Endpoint,
        sound: Sound,
        free: Callable[[ReadingLink], None],
        gone: Callable[[ReadingLink], None],
    ) -> None:
        self._endpoint = endpoint
        self._sound = sound
        self._free = free
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: picows.WSTransport | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._reading: Reading | None = None
        self._cancelled = False
        self._texts = 0
        self._close_timer: asyncio.TimerHandle | None = None
        self.opened_at = self._loop.time()
        self.over = False
        self.behind = False

    async def open(self) -> None:
        """Connect and configure.

        Raises:
            BackendError: see `connect`; or the session was refused.
        """
        try:
            await connect(self._endpoint, self._sound.model, self)
            async with asyncio.timeout(OPENED_WITHIN_S):
                await self._opened
        except TimeoutError:
            self.close()
            raise BackendError("unreachable", "the session for speech was not confirmed in time", retry=True) from None
        except BaseException:
            self.close()
            raise

    def read(self, text: str, instructions: str) -> Reading:
        """Ask for a text; the link must be free."""
        assert self._reading is None
        self._stop_timer()
        self._texts += 1
        self._cancelled = False
        reading = self._reading = Reading()
        self._send(
            {
                "type": "response.create",
                "event_id": f"text_{self._texts}",
                "response": {
                    "conversation": "none",
                    "input": [],
                    "instructions": instructions,
                    "output_modalities": ["audio"],
                    "metadata": {"purpose": "speech", "number": str(self._texts)},
                },
            }
        )
        return reading

    def cancel(self) -> None:
        """Nobody listens any more. The link is free again when the server has confirmed it."""
        if self._reading is None or self._cancelled:
            return
        if not self._reading.response:
            self.close()  # there is nothing yet that could be named
            return
        self._cancelled = True
        self._send({"type": "response.cancel", "response_id": self._reading.response})
        self._timer(OPENED_WITHIN_S)

    def close_in(self, seconds: float) -> None:
        """Close unless a text comes before."""
        self._timer(seconds)

    def close(self) -> None:
        """Close now; safe to call twice."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.send_close(picows.WSCloseCode.OK)
            self._transport.disconnect()
        self.disconnected()

    # -- called by the listener -------------------------------------------------------------------------

    def connected(self, transport: picows.WSTransport) -> None:
        """See `Receiver`."""
        self._transport = transport

    def closing(self, code: int, reason: str) -> None:
        """See `Receiver`."""

    def disconnected(self) -> None:
        """See `Receiver`."""
        if self.over:
            return
        self.over = True
        self._transport = None
        self._stop_timer()
        if not self._opened.done():
            self._fail(BackendError("unreachable", "the connection was closed while it opened", retry=True))
        if self._reading is not None:
            self._reading.end("lost", "connection_lost", "the connection was lost")
            self._reading = None
        self._gone(self)

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        try:
            event = msgspec.json.decode(data)
            kind = event["type"]
            self._take(str(kind), event)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError, binascii.Error):
            self._endpoint.counters["speech_malformed"] += 1

    # -- events -----------------------------------------------------------------------------------------

    def _take(self, kind: str, event: dict[str, Any]) -> None:
        match kind:
            case "session.created":
                self._configure()
            case "session.updated":
                if not self._opened.done():
                    self._opened.set_result(None)
            case "error":
                self._refused(event.get("error") or {})
        reading = self._reading
        if reading is None:
            return
        match kind:
            case "response.created":
                reading.response = event["response"]["id"]
            case "response.output_audio.delta" if event["response_id"] == reading.response:
                reading.pieces.put_nowait(base64.b64decode(event["delta"], validate=True))
            case "response.output_audio_transcript.done" if event["response_id"] == reading.response:
                reading.transcript = f"{reading.transcript} {event['transcript']}".strip()
            case "response.done" if event["response"]["id"] == reading.response:
                self._done(reading, event["response"])

    def _configure(self) -> None:
        sound = self._sound
        narrow = sound.rate_hz == 8000
        output: dict[str, Any] = {
            "format": {"type": "audio/pcmu"} if narrow else {"type": "audio/pcm", "rate": PCM_RATE_HZ},
            "voice": sound.voice,
        }
        if sound.speed != 1.0:
            output["speed"] = sound.speed
        session: dict[str, Any] = {
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {"input": {"turn_detection": None}, "output": output},
            "tools": [],
            "tool_choice": "none",
        }
        if self._endpoint.models.get(sound.model).reasoning:  # an error for other models
            session["reasoning"] = {"effort": "minimal"}
        self._send({"type": "session.update", "session": session})

    def _refused(self, error: Mapping[str, Any]) -> None:
        code, message = str(error.get("code") or error.get("type") or "error"), str(error.get("message") or "")
        if not self._opened.done():
            self._fail(BackendError("refused", f"the session for speech was refused: {message}", retry=False))
        elif self._reading is not None and not self._cancelled and not self._reading.response:
            self._finish(self._reading, "failed", code, message)

    def _done(self, reading: Reading, response: Mapping[str, Any]) -> None:
        details = response.get("status_details") or {}
        error = details.get("error") or {}
        code = str(error.get("code") or error.get("type") or details.get("reason") or "")
        reading.usage = response.get("usage")
        self._finish(reading, str(response.get("status") or "failed"), code, str(error.get("message") or code))

    def _finish(self, reading: Reading, status: str, code: str, detail: str) -> None:
        self._reading = None
        self._stop_timer()
        reading.end(status, code, detail)
        self._free(self)

    def _fail(self, error: BackendError) -> None:
        self._opened.set_exception(error)
        self._opened.exception()  # whoever opens it may have given up

    # -- small things -----------------------------------------------------------------------------------

    def _send(self, event: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.TEXT, _json.encode(event))

    def _timer(self, seconds: float) -> None:
        self._stop_timer()
        self._close_timer = self._loop.call_later(seconds, self.close)

    def _stop_timer(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
