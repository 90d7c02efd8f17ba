"""A page's WebSocket: what goes out waits in one short queue, so that nobody who sends ever waits for the network."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress

from aiohttp import WSCloseCode, WSMsgType, web

from services.browser_gateway.messages import FromPage, HangUpPressed, MutePressed, ToPage
from services.browser_gateway.page_stream import PageStream

MAX_AUDIO = 25  # half a second; beyond it the oldest goes
MAX_TEXT = 200  # a page that does not read what it is told is not there
FINISH_S = 2.0
CUT_AFTER_S = 3.0  # a page that does not read would hold a polite close, and its call, for ever

NOT_UNDERSTOOD, NOT_ACCEPTED, NO_HELLO, REFUSED = 4400, 4401, 4408, 4409  # RFC 6455 §7.4.2: private use


class Connection:
    """`write()` is a task; `send` and `send_audio` return at once. `abort` cuts the connection below the WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, abort: Callable[[], None]) -> None:
        self._socket = socket
        self._abort = abort
        self._text: deque[str] = deque()
        self._audio: deque[bytes] = deque(maxlen=MAX_AUDIO)
        self._wanted = asyncio.Event()
        self._written = asyncio.Event()
        self.stream = PageStream()
        self.counters: Counter[str] = Counter()
        self.close_code: int | None = None

    # -- out -----------------------------------------------------------------------------------------------

    def send(self, message: ToPage) -> None:
        """Say something; it overtakes audio that still waits here."""
        if len(self._text) < MAX_TEXT:
            self._text.append(message.model_dump_json())
            self._wanted.set()
        else:
            self.counters["text_dropped"] += 1

    def send_audio(self, data: bytes) -> None:
        """20 ms."""
        if len(self._audio) == MAX_AUDIO:
            self.counters["audio_dropped"] += 1
        self._audio.append(data)
        self._wanted.set()

    def drop_audio(self) -> None:
        """A flush: what waits here goes the way of what waits in the page."""
        self._audio.clear()

    async def write(self) -> None:
        """Send until cancelled or until the page is gone."""
        socket = self._socket
        with suppress(ConnectionError):  # the reader reports how the connection ended
            while True:
                self._wanted.clear()
                while self._text or self._audio:
                    if self._text:
                        await socket.send_str(self._text.popleft())
                    else:
                        await socket.send_bytes(self._audio.popleft())
                        self.counters["audio_sent"] += 1
                self._written.set()
                await self._wanted.wait()
                self._written.clear()

    async def finish(self, code: int, reason: str) -> None:
        """Send what waits, then close; waits `FINISH_S` at most for each."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(FINISH_S):
                while self._text and not self._socket.closed:
                    self._written.clear()
                    await self._written.wait()
        await self.close(code, reason)

    async def close(self, code: int, reason: str) -> None:
        """Close with a reason; RFC 6455 §5.5.1 leaves 123 bytes for it."""
        asyncio.get_running_loop().call_later(CUT_AFTER_S, self._abort)
        with suppress(ConnectionError):
            message = reason.encode()[:123].decode(errors="ignore").encode()
            await self._socket.close(code=code, message=message)

    def cut(self) -> None:
        """End it at once, without a word."""
        self._abort()

    # -- in ------------------------------------------------------------------------------------------------

    async def receive(self) -> FromPage | list[bytes] | None:
        """The next message, or frames of audio; None when the connection is over (`close_code` says how)."""
        while True:
            msg = await self._socket.receive()
            if msg.type is WSMsgType.BINARY:
                frames = self.stream.audio(msg.data)
                if not self.stream.is_hopeless:
                    return frames
            elif msg.type is WSMsgType.TEXT:
                message = self.stream.text(msg.data)
                if message is not None:
                    return message
            else:
                self.close_code = self._socket.close_code
                return None
            if self.stream.is_hopeless:
                await self.close(NOT_UNDERSTOOD, "not understood")
                self.close_code = NOT_UNDERSTOOD
                return None

    async def read_on(self, heard: Callable[[list[bytes]], None]) -> None:
        """Until the page leaves or hangs up, while there is no agent: its words, and pings are answered."""
        while (received := await self.receive()) is not None:
            match received:
                case list():
                    heard(received)
                case MutePressed():
                    self.stream.muted = received.muted
                case HangUpPressed():
                    return
                case _:
                    pass


LEFT = (WSCloseCode.OK, WSCloseCode.GOING_AWAY)  # the person closed the page or left it
