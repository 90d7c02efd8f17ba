"""One HTTP request and its answer: the record, the faults that strike, and the pace at which a body goes out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from pydantic import BaseModel

from services.rehearsal.faults import Endpoint, Fault, FaultKind, misshape
from services.rehearsal.outputs import Frame, Raw
from services.rehearsal.refusals import ApiError, rate_limit_headers, rehearsed_refusal
from services.rehearsal.request_log import RequestRecord
from services.rehearsal.shapes import check_answer

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

_SHAPES: tuple[FaultKind, ...] = ("extra_field", "missing_field", "malformed_json")
_BREAKS: tuple[FaultKind, ...] = ("abort", "close", "stall", "error", "unknown_event")


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a body, sent ``delay_s`` after the one before; ``media_s`` is what it lasts when played or said."""

    data: bytes
    delay_s: float = 0.0
    media_s: float = 0.0


class Exchange:
    """What the handlers of all endpoints share. ``headers`` go out with every answer."""

    def __init__(self, rehearsal: Rehearsal, request: web.Request, endpoint: Endpoint) -> None:
        self.rehearsal, self.request, self.endpoint = rehearsal, request, endpoint
        self.record = RequestRecord(rehearsal.new_id("req"), endpoint, at=time.time())
        self.headers = {"x-request-id": self.record.id, "openai-version": "2020-10-01", **rate_limit_headers()}
        self.self_check = rehearsal.settings.self_check
        self.refusal_of: Callable[[int, float | None, str | None], ApiError] = rehearsed_refusal
        self._faults: list[Fault] = []
        self._started_at = asyncio.get_running_loop().time()

    # -- faults ----------------------------------------------------------------------------------------

    async def meet_faults(self, turn: int = 0, *, also: Iterable[Fault] = ()) -> None:
        """Take this request's faults, ``also`` those of its scenario; some strike before any answer: now.

        Raises ApiError.
        """
        self._faults = [*self.rehearsal.take_faults(self.request, self.endpoint, turn=turn), *also]
        self.record.faults = [fault.kind for fault in self._faults]
        refuse = self.fault("refuse")
        if refuse is not None:
            raise self.refusal_of(refuse.status, refuse.retry_after_s, refuse.error_code_or_none)
        if self.fault("hang") is not None:
            await self.rehearsal.stopping.wait()
            raise ApiError(503, "server shutdown", kind="server_error")

    def fault(self, kind: FaultKind) -> Fault | None:
        """The fault of this kind, if the request suffers one."""
        return next((fault for fault in self._faults if fault.kind == kind), None)

    # -- answers ---------------------------------------------------------------------------------------

    def check(self, model: type[BaseModel], frame: Frame) -> Frame:
        """``frame``, compared with the package's model in self-check mode."""
        if self.self_check:
            check_answer(model, frame)
        return frame

    async def send_json(self, body: Frame, *, delay_s: float = 0.0) -> web.StreamResponse:
        """The whole answer as one object, after ``delay_s``."""
        return await self.send([Piece(self._encoded(body), delay_s)], "application/json", length_known=True)

    async def send_events(
        self, frames: Iterable[tuple[Frame, float]], *, first_s: float, last: bytes = b""
    ) -> web.StreamResponse:
        """Server-sent events: frames and the seconds that each takes to say; ``last`` ends the stream."""

        def pieces() -> Iterator[Piece]:
            delay_s = first_s
            for index, (frame, pause_s) in enumerate(frames):
                yield Piece(b"data: " + self._encoded(frame, index) + b"\n\n", delay_s, pause_s)
                delay_s = pause_s
            if last:
                yield Piece(last)

        return await self.send(pieces(), "text/event-stream; charset=utf-8")

    async def send(
        self, pieces: Iterable[Piece], content_type: str, *, length_known: bool = False
    ) -> web.StreamResponse:
        """Send the pieces in time, as far as the faults and the client let them go."""
        wrong_type = self.fault("wrong_content_type") is not None
        headers = {**self.headers, "Content-Type": "text/html; charset=utf-8" if wrong_type else content_type}
        response = web.StreamResponse(headers=headers)
        if length_known:
            pieces = list(pieces)
            response.content_length = sum(len(piece.data) for piece in pieces)
            await self._pause_until(self._started_at + pieces[0].delay_s)
        self.record.status = response.status
        await response.prepare(self.request)
        loop = asyncio.get_running_loop()
        slow = self.fault("slow_drip")
        due = loop.time() if not length_known else self._started_at
        try:
            for index, piece in enumerate(pieces):
                if await self._breaks_off(index, response, not length_known):
                    return response
                # Real time is for what is played or written; a first delay stays as it is.
                due += piece.delay_s if slow is None or not index else piece.media_s / slow.factor
                await self._pause_until(due)
                await response.write(piece.data)
                self.record.sent_bytes += len(piece.data)
            self.record.completed = True
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError) as error:
            self.record.error = f"the client went: {error or type(error).__name__}"
            raise
        return response

    def _encoded(self, frame: Frame, index: int = 0) -> bytes:
        for fault in self._faults:
            if fault.kind in _SHAPES and index == (fault.after_deltas or 0):
                bent = misshape(fault, frame)
                return str(bent.data).encode() if isinstance(bent, Raw) else orjson.dumps(bent)
        return orjson.dumps(frame)

    async def _breaks_off(self, index: int, response: web.StreamResponse, is_stream: bool) -> bool:
        """Let strike what strikes before piece ``index``; whether that ends the answer."""
        for fault in self._faults:
            if fault.kind not in _BREAKS or index != (fault.after_deltas or 0):
                continue
            match fault.kind:
                case "abort":
                    if self.request.transport is not None:
                        self.request.transport.abort()
                    return True
                case "stall":
                    await self._pause_until(asyncio.get_running_loop().time() + (fault.duration_ms or 1e9) / 1000)
                case "unknown_event" | "error" | "close" if not is_stream:
                    pass  # they need a stream to happen in
                case "unknown_event":
                    await response.write(b'event: rehearsal.unknown\ndata: {"type":"rehearsal.unknown"}\n\n')
                case "error":
                    body = ApiError(500, "A rehearsed error.", code=fault.error_code, kind="server_error").body()
                    await response.write(b"data: " + orjson.dumps(body) + b"\n\n")
                    return True
                case _:  # close: an end in good order, too early
                    await response.write_eof()
                    return True
        return False

    async def _pause_until(self, due: float) -> None:
        await self.pause(due - asyncio.get_running_loop().time())

    async def pause(self, pause_s: float) -> None:
        """Wait; the server's end breaks the wait off with a ConnectionResetError."""
        if pause_s <= 0:
            return
        try:
            async with asyncio.timeout(pause_s):
                await self.rehearsal.stopping.wait()
        except TimeoutError:
            return
        raise ConnectionResetError("server shutdown")


Handler = Callable[[Exchange], Any]


def exchanged(rehearsal: Rehearsal, endpoint: Endpoint, handler: Handler) -> Callable[[web.Request], Any]:
    """An aiohttp handler that gives ``handler`` an ``Exchange`` and keeps its record, refusals included."""

    async def handle(request: web.Request) -> web.StreamResponse:
        exchange = Exchange(rehearsal, request, endpoint)
        record = exchange.record
        rehearsal.requests.add(record)
        try:
            response: web.StreamResponse = await handler(exchange)
            return response
        except ApiError as refusal:
            record.status, record.error = refusal.status, refusal.message
            refusal.headers = {**exchange.headers, **refusal.headers}
            raise
        finally:
            rehearsal.metrics.requests.labels(endpoint, str(record.status)).inc()

    return handle


async def json_body(request: web.Request) -> Frame:
    """The request's JSON object. Raises ApiError (400, 415)."""
    if request.content_type != "application/json":
        message = f"Unsupported content type: '{request.content_type}'. This API method only accepts "
        raise ApiError(415, message + "'application/json' requests.", code="unsupported_content_type")
    try:
        body = json.loads(await request.read())
    except ValueError:
        message = "We could not parse the JSON body of your request. The API expects a JSON payload."
        raise ApiError(400, message) from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body of your request must be a JSON object.")
    return body
