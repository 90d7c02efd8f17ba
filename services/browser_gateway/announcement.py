"""A route's recorded message, for a page that no agent will speak with."""

from __future__ import annotations

import asyncio
import audioop
import base64

from libs.audio.resample import Resampler
from libs.contracts.config import Fallback
from services.browser_gateway.connection import Connection
from services.browser_gateway.page_stream import FRAME_BYTES, RATE_HZ, downlink

ULAW_RATE_HZ = 8000
TAIL_S = 0.3  # what the page's own buffer may still hold


def message_of(fallback: Fallback | None) -> bytes:
    """The message as PCM of the page's rate; empty when the fallback has none that a page can hear."""
    if fallback is None or fallback.kind != "message" or not fallback.message_ulaw_b64:
        return b""
    pcm = audioop.ulaw2lin(base64.b64decode(fallback.message_ulaw_b64), 2)
    return Resampler(ULAW_RATE_HZ, RATE_HZ).process(pcm + bytes(ULAW_RATE_HZ // 50))


class Announcement:
    """Served by the ticker; `done` is set when the page has had time to play all of it."""

    def __init__(self, connection: Connection, pcm: bytes, position: int) -> None:
        self._connection = connection
        self._pcm = pcm + bytes(int(TAIL_S * 50) * FRAME_BYTES)
        self._position = position
        self._at = 0
        self.done = asyncio.Event()

    def tick(self, _: float) -> None:
        """20 ms have passed."""
        piece = self._pcm[self._at : self._at + FRAME_BYTES]
        if not piece:
            self.done.set()
            return
        self._connection.send_audio(downlink(self._position, piece))
        self._at += len(piece)
        self._position += len(piece) // 2

    def media_failed(self) -> None:
        """No message, then."""
        self.done.set()
