"""Calls that no agent takes: what Twilio does with them, and those without a leg that leave a message."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from libs.audio.g711 import Law
from libs.audio.wav import write_wav
from libs.call_leg.last_words import LastWords
from libs.contracts.config import Fallback
from services.twilio_gateway import twiml
from services.twilio_gateway.call import RATE_HZ, NoAgent, Spawn, TwilioCall
from services.twilio_gateway.settings import Settings

T = TypeVar("T")
KEPT_S = 30.0  # what Twilio fetches after a call has ended here


class Kept(dict[str, T]):
    """What is needed for a while after a call."""

    def keep(self, key: str, value: T, kept_s: float = KEPT_S) -> None:
        """Until then."""
        self[key] = value
        asyncio.get_running_loop().call_later(kept_s, self.pop, key, None)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was refused: the call's id, its organisation, what was dialled, Twilio's id."""

    call: str
    org: str
    callee: str
    sid: str


class Farewells:
    """`open` makes a call that is ticked, `connect` its TwiML, `left` is told of its end."""

    def __init__(self, settings: Settings, last_words: LastWords, spawn: Spawn) -> None:
        self._settings = settings
        self._last_words = last_words
        self._spawn = spawn
        self._messages: Kept[bytes] = Kept()
        self._partings: Kept[str] = Kept()
        self._calls: dict[str, TwilioCall] = {}  # without a leg, by our call id
        self.open: Callable[[str, str], TwilioCall]
        self.connect: Callable[[TwilioCall, str, str], str]
        self.left: Callable[[TwilioCall], None]

    # -- TwiML ---------------------------------------------------------------------------------------------------

    def refusal(self, refused: NoAgent) -> str:
        """What Twilio does by itself."""
        fallback = refused.fallback
        if fallback.kind == "transfer" and fallback.number:
            return self.forward(fallback.number)
        return self._play(fallback) if fallback.has_message else twiml.reject(refused.termination.reason)

    def forward(self, number: str) -> str:
        """The route's other number."""
        return twiml.forward(number, self._settings.twilio_dial_timeout_s)

    def _play(self, fallback: Fallback) -> str:
        token = secrets.token_urlsafe(24)
        pcm = Law.PCMU.decode(base64.b64decode(fallback.message_ulaw_b64 or ""))
        self._messages.keep(token, write_wav(pcm, RATE_HZ))
        return twiml.play(f"{self._settings.public_url}/messages/{token}.wav")

    def message(self, token: str) -> bytes | None:
        """A message as a WAV file, for Twilio's `<Play>`."""
        return self._messages.get(token)

    # -- with a leg, which has ended -----------------------------------------------------------------------------

    def part(self, call: TwilioCall) -> None:
        """A call has left: what it does when Twilio asks after it."""
        if call.forward_to is not None:
            self._partings.keep(call.call, self.forward(call.forward_to))
        elif call.unheard is not None:
            self._partings.keep(call.call, self._play(call.unheard))

    def after(self, call_id: str, call: TwilioCall | None) -> str:
        """A stream has ended, or could not be had: what a call does that is over here."""
        call = call or self._calls.get(call_id)
        if call is not None and call.unheard is not None:
            call.gone("no media stream came")
            return self._play(call.unheard)
        if call is not None and call.forward_to is not None:
            return self.forward(call.forward_to)
        return self._partings.get(call_id) or twiml.hang_up()

    # -- without a leg -------------------------------------------------------------------------------------------

    def takes_message(self, refused: NoAgent) -> bool:
        """Whether this caller can leave one."""
        return self._last_words.takes_message(refused.fallback, refused.termination.reason)

    def take_message(self, caller: Caller, fallback: Fallback) -> str:
        """The TwiML of a stream on which the caller hears the message, and is heard."""
        call = self._calls[caller.call] = self.open(caller.org, caller.call)
        call.call_sid = caller.sid
        call.part_with(fallback)
        self._spawn(self._serve(call))
        return self.connect(call, caller.callee, "")

    @property
    def is_busy(self) -> bool:
        """Whether anybody without a leg is on the line."""
        return bool(self._calls)

    def find(self, sid: str) -> TwilioCall | None:
        """The call that Twilio knows by this id."""
        return next((call for call in self._calls.values() if sid and call.call_sid == sid), None)

    async def _serve(self, call: TwilioCall) -> None:
        try:
            await call.finish()
        finally:
            self.part(call)
            self.left(call)
            del self._calls[call.call]
