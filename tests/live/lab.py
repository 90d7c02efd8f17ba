"""What the checks work with: the endpoint, a purse with a bottom, and one WebSocket as a script would drive it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from libs.audio.g711 import Law
from services.ai_session.costs import Models, RunningTotal, tokens_of
from services.rehearsal.speech import CLIPS, read_clip

CALLER_SAYS = "bestellung-1"  # "Guten Tag, ich brauche zehn T-Stücke, 22 Millimeter."
FAR_AWAY = (401, 403, 404)
State = Literal["holds", "does not hold", "not available"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one assumption."""

    state: State
    detail: str


def holds(condition: bool, detail: str) -> Verdict:
    """Of a condition."""
    return Verdict("holds" if condition else "does not hold", detail)


class NotAvailableError(Exception):
    """The endpoint does not serve this to us: no such model, no such path, no permission."""


class RefusedError(Exception):
    """The endpoint refused what a check relies on; the sentence is its own."""


@dataclass(slots=True)
class Purse:
    """What was spent; the checks end before the bottom is reached."""

    models: Models
    usd: float = 0.0
    unknown: list[str] = field(default_factory=list)

    def pay(self, cost: float | None, model: str) -> None:
        """A cost; None: its price is not known."""
        if cost is None:
            self.unknown.append(model)
        else:
            self.usd += cost


@dataclass(frozen=True, slots=True)
class Lab:
    """The endpoint and the models that are tried."""

    base_url: str
    api_key: str
    http: aiohttp.ClientSession
    purse: Purse
    realtime: str
    live: str
    chat: str
    transcription: str
    speech: str
    elevenlabs_url: str = ""
    elevenlabs_key: str = ""
    elevenlabs_voice: str = ""
    elevenlabs_model: str = ""

    @property
    def models(self) -> Models:
        """Prices."""
        return self.purse.models

    async def post(self, path: str, **request: Any) -> tuple[bytes, Json | None]:
        """The answer's body, and the same as JSON where it is that.

        Raises:
            NotAvailableError, RefusedError: as the status says.
        """
        async with self.http.post(f"{self.base_url}{path}", headers=self._authorised(), **request) as answer:
            body = await answer.read()
            await _check(answer.status, body)
        return body, _as_json(body)

    async def get(self, path: str) -> Json:
        """The same for a listing."""
        async with self.http.get(f"{self.base_url}{path}", headers=self._authorised()) as answer:
            body = await answer.read()
            await _check(answer.status, body)
        return _as_json(body) or {}

    @asynccontextmanager
    async def socket(self, path: str, model: str) -> AsyncIterator[Socket]:
        """A WebSocket session; every response's usage is paid.

        Raises:
            NotAvailableError: the upgrade was refused.
        """
        url = f"{self.base_url}{path}".replace("http", "ws", 1)
        try:
            upgraded = await self.http.ws_connect(url, headers=self._authorised(), max_msg_size=0)
        except aiohttp.WSServerHandshakeError as error:
            raise NotAvailableError(f"the upgrade was refused with {error.status}") from None
        async with upgraded as ws:
            yield Socket(ws, self.purse, model)

    def _authorised(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


class Socket:
    """One session: send events, wait for others; all that came is kept in `events`."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, purse: Purse, model: str) -> None:
        self._ws, self._purse, self._model = ws, purse, model
        self._seconds = RunningTotal()
        self.events: list[Json] = []

    async def send(self, kind: str, **fields: Any) -> None:
        """Send one event."""
        await self._ws.send_str(json.dumps({"type": kind, **fields}))

    async def until(self, *kinds: str, limit_s: float = 20.0) -> Json:
        """The next event of one of these kinds.

        Raises:
            RefusedError: an `error` event came that was not waited for, or nothing in time.
            NotAvailableError: the model is not served.
        """
        ends = time.monotonic() + limit_s
        while (left_s := ends - time.monotonic()) > 0:
            try:
                message = await self._ws.receive(timeout=left_s)
            except TimeoutError:
                break
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise RefusedError(f"the connection was closed ({self._ws.close_code})")
            event = json.loads(message.data)
            self.events.append(event)
            self._pay(event)
            if event["type"] in kinds:
                return event
            if event["type"] == "error":
                _raise(event["error"])
        raise RefusedError(f"no {' or '.join(kinds)} within {limit_s:g} s")

    async def configure(self, **session: Any) -> Json:
        """`session.update` and the session that is in force then."""
        await self.until("session.created")
        await self.send("session.update", session={"type": "realtime", **session})
        return (await self.until("session.updated"))["session"]

    async def say(self, pcm: bytes) -> None:
        """Append a caller's speech (PCM at 8 kHz) as mu-law, and a second and a half of silence."""
        data = Law.PCMU.encode(pcm + bytes(2 * 12_000))
        for start in range(0, len(data), 800):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(data[start : start + 800]).decode())

    def transcript(self, response: str) -> str:
        """What a response said."""
        return " ".join(
            event["transcript"]
            for event in self.events
            if event["type"] == "response.output_audio_transcript.done" and event["response_id"] == response
        )

    def audio(self) -> Iterable[tuple[str, int]]:
        """Item and bytes of every audio delta."""
        for event in self.events:
            if event["type"] == "response.output_audio.delta":
                yield event["item_id"], len(base64.b64decode(event["delta"]))

    def _pay(self, event: Json) -> None:
        models, purse = self._purse.models, self._purse
        if event["type"] == "response.done":
            tokens = tokens_of(event["response"].get("usage"))
            purse.pay(models.cost_of_response(self._model, tokens), self._model)
        elif event["type"] in ("session.usage.updated", "session.closed"):
            seconds = float((event.get("usage") or {}).get("seconds") or 0.0)
            purse.pay(models.cost_of_session(self._model, self._seconds.grown_to(seconds)), self._model)
        elif event["type"].endswith("input_audio_transcription.completed"):
            usage = event.get("usage") or {}
            cost = models.cost_of_transcription(
                models.transcription, tokens_of(usage, speaks=False), usage.get("seconds")
            )
            purse.pay(cost, models.transcription)


@dataclass(frozen=True, slots=True)
class Check:
    """One assumption: what it is, what it costs to try, how it is tried."""

    name: str
    assumption: str
    estimate: Callable[[Lab], float | None]
    run: Callable[[Lab], Awaitable[Verdict]]


async def carried_out(check: Check, lab: Lab) -> Verdict:
    """The verdict, whatever happens: a refusal of what the check relies on says that its assumption does not hold."""
    try:
        return await check.run(lab)
    except NotAvailableError as error:
        return Verdict("not available", str(error))
    except Exception as error:  # noqa: BLE001  whatever a real server answers: what was paid for is told, and goes on
        return Verdict("does not hold", f"{type(error).__name__}: {error}")


def caller_speech() -> bytes:
    """PCM at 8 kHz of a recorded caller."""
    index = json.loads((CLIPS / "caller" / "index.json").read_text("utf-8"))
    return read_clip(CLIPS / "caller" / index[CALLER_SAYS]["file"])


async def _check(status: int, body: bytes) -> None:
    if status >= 400:
        error = (_as_json(body) or {}).get("error")
        said = error.get("message") if isinstance(error, dict) else body[:200].decode("utf-8", "replace")
        raise (NotAvailableError if status in FAR_AWAY else RefusedError)(f"HTTP {status}: {said}")


def _raise(error: Json) -> None:
    code, message = error.get("code") or error.get("type") or "error", error.get("message") or ""
    gone = "model" in code and ("not_found" in code or "access" in code)
    raise (NotAvailableError if gone else RefusedError)(f"{code}: {message}")


def _as_json(body: bytes) -> Json | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
