"""One media stream while it is attached to a call: its core, its pace, its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web

from services.twilio_gateway.downlink import Downlink
from services.twilio_gateway.media_stream import MediaStream

QUEUED_MESSAGES = 400  # what a stalled connection may hold: the downlink's bound stops it far below
CLOSE_S = 2.0  # for what was sent before, and the answer to the close; then the connection is cut
NORMAL = 1000  # RFC 6455 §7.4.1


class Line:
    """`send` and `close` return at once; `write` is the one task that waits for the socket.

    `abort` cuts the connection: a peer that does not read any more would hold a polite close for ever.
    """

    def __init__(
        self, socket: web.WebSocketResponse, stream: MediaStream, now: float, abort: Callable[[], None]
    ) -> None:
        self._socket = socket
        self._abort = abort
        self._loop = asyncio.get_running_loop()
        self.stream = stream
        self.downlink = Downlink(stream.stream_sid)
        self.received_at = now
        self.is_open = True
        self.dropped = 0
        self.gone = asyncio.Event()
        self._queue: asyncio.Queue[str | tuple[int, str]] = asyncio.Queue()

    def send(self, messages: Iterable[str]) -> None:
        """Put messages on their way, in order."""
        if not self.is_open:
            return
        for message in messages:
            if self._queue.qsize() >= QUEUED_MESSAGES:
                self._queue.get_nowait()
                self.dropped += 1
            self._queue.put_nowait(message)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream once what was sent before is out."""
        if self.is_open:
            self.is_open = False
            self._queue.put_nowait((code, reason))
            self._loop.call_later(CLOSE_S, self._cut)

    def _cut(self) -> None:
        if not self.gone.is_set():
            self._abort()

    async def write(self) -> None:
        """Send until closed or cancelled."""
        try:
            while True:
                item = await self._queue.get()
                if isinstance(item, str):
                    await self._socket.send_str(item)
                else:
                    code, reason = item
                    await self._socket.close(code=code, message=reason.encode())
                    return
        except (ConnectionError, RuntimeError):  # the other side closed first; its reader says so
            self.is_open = False
