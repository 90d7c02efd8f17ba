"""Media streams: which call a WebSocket belongs to, and its messages from `start` to the end."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from services.twilio_gateway.call import TwilioCall
from services.twilio_gateway.line import Line
from services.twilio_gateway.media_stream import Close, MediaStream, Started

log = get_logger()

TICKET_VALID_S = 30.0  # from our TwiML to the stream; outbound the ringing comes before it
START_WITHIN_S = 5.0
POLICY, TOO_LARGE = 1008, 1009  # RFC 6455 §7.4.1
NO_CLOSE_FRAME = (None, 1006)


@dataclass(frozen=True, slots=True)
class _Ticket:
    """What lets one stream in: bound to a call, for a short time, once."""

    call: TwilioCall
    valid_until: float


class Streams:
    """Lets in who has a ticket; `on_start` hears of a call's stream before it is served."""

    def __init__(self, knows: Callable[[TwilioCall, str], None], on_start: Callable[[TwilioCall], None]) -> None:
        self._knows = knows
        self._on_start = on_start
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[str, _Ticket] = {}
        self.counters: Counter[str] = Counter()

    def ticket(self, call: TwilioCall, ringing_s: float) -> str:
        """A secret for the TwiML of this call's stream."""
        token = secrets.token_urlsafe(24)
        self._tickets[token] = _Ticket(call, self._loop.time() + ringing_s + TICKET_VALID_S)
        return token

    def forget(self, call: TwilioCall) -> None:
        """The call has ended."""
        for token in [token for token, ticket in self._tickets.items() if ticket.call is call]:
            del self._tickets[token]

    async def serve(self, socket: web.WebSocketResponse, abort: Callable[[], None]) -> None:
        """Serve one WebSocket: whose is it, then its messages to the end. `abort` cuts its connection."""
        core = MediaStream()
        call = await self._introduced(socket, core)
        if call is None:
            self.counters["streams_refused"] += 1
            await socket.close(code=POLICY, message=b"not expected here")
            return
        line = Line(socket, core, self._loop.time(), abort)
        call.attach(line)
        self._on_start(call)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(line.write())
            try:
                by = await self._read(socket, call, line)
            except Exception:  # the top of a stream: a defect in it ends its call in order, and no other
                self.counters["defects"] += 1
                log.exception("a stream's message could not be handled", call=call.call)
                call.end(Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway; see its log"))
                by = "closed"
            call.detach(line, by=by)
            if by == "refused":
                await writing  # the close with its reason goes out
            writing.cancel()

    async def _introduced(self, socket: web.WebSocketResponse, core: MediaStream) -> TwilioCall | None:
        """The call that the stream proves to belong to."""
        try:
            async with asyncio.timeout(START_WITHIN_S):
                while True:
                    message = await socket.receive()
                    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                        return None
                    for action in core.receive(message.data, self._loop.time()):
                        if isinstance(action, Started):
                            return self._admitted(action)
                        if isinstance(action, Close):
                            return None
        except TimeoutError:
            return None

    def _admitted(self, started: Started) -> TwilioCall | None:
        ticket = self._tickets.pop(started.parameters.get("token", ""), None)
        if ticket is None or self._loop.time() > ticket.valid_until:
            return None
        call = ticket.call
        if not call.call_sid:  # outbound: the stream is faster than the answer to our request
            self._knows(call, started.call_sid)
        return call if call.call_sid == started.call_sid else None

    async def _read(self, socket: web.WebSocketResponse, call: TwilioCall, line: Line) -> str:
        while True:
            message = await socket.receive()
            now = self._loop.time()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                line.received_at = now
                by = call.take(line, line.stream.receive(message.data, now), now)
            elif socket.close_code == TOO_LARGE:
                by = "refused"
            else:
                in_order = socket.close_code not in NO_CLOSE_FRAME  # RFC 6455 §7.1.5: 1006 is a close without a frame
                by = call.take(line, line.stream.closed(in_order=in_order), now) or "closed"
            if by is not None:
                return by
