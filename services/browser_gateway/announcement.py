"""The sound of a call without an agent, on its way to the page."""

from __future__ import annotations

import asyncio

from libs.call_leg.audio import CallAudio
from services.browser_gateway.connection import Connection
from services.browser_gateway.page_stream import downlink


class Announcement:
    """Served by the ticker. It waits for no word of the page, which has no agent to interrupt."""

    def __init__(self, connection: Connection, audio: CallAudio, position: int, gone: asyncio.Event) -> None:
        self._connection = connection
        self._audio = audio
        self._position = position
        self._gone = gone

    def tick(self, _: float) -> None:
        """20 ms have passed."""
        pcm = self._audio.tick()
        if pcm is not None:
            self._connection.send_audio(downlink(self._position, pcm))
            self._position += len(pcm) // 2

    def media_failed(self) -> None:
        """No message, then."""
        self._gone.set()
