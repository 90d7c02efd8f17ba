"""One test call from a browser as an entrance of a call leg."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from libs.call_leg.audio import CallAudio
from libs.contracts.commands import Hold, LegCommand, Transfer
from libs.contracts.config import Fallback
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from services.browser_gateway.messages import (
    Answered,
    Flush,
    FromPage,
    HandBackPressed,
    HangUpPressed,
    Hello,
    KeyPressed,
    MutePressed,
    NotDone,
    PageFlushed,
    PageStatistics,
    TransferPressed,
)
from services.browser_gateway.page_playout import PagePlayout
from services.browser_gateway.page_stream import FRAME_BYTES, RATE_HZ, downlink

if TYPE_CHECKING:
    from libs.call_leg.shell import LegShell
    from services.browser_gateway.connection import Connection

log = get_logger()

KEYS_PER_S, KEYS_AT_ONCE = 10.0, 32.0  # faster than anybody presses; each one is an event on record
MEDIA_TIMEOUT_S = 30.0  # a muted page sends silence; one that sends nothing is stuck


class BrowserCall:
    """Implements `libs.call_leg.ports.Entrance`; `shell` is set as soon as the leg exists."""

    def __init__(self, connection: Connection, org: str, gw: str, call: str, publish: Callable[[str, bytes], bool],
                 ) -> None:  # fmt: skip
        self._connection = connection
        self._call = call
        self._loop = asyncio.get_running_loop()
        self.audio = CallAudio(org, gw, call, publish, rate_hz=RATE_HZ)
        self.playout = PagePlayout(FRAME_BYTES, self._flush)
        self.audio.playout = self.playout
        self.shell: LegShell | None = None
        self.parting: Fallback | None = None  # its message is for the page, by the gateway
        self._answered = False
        self._heard_at = 0.0
        self._keys_allowed, self._pressed_at = KEYS_AT_ONCE, self._loop.time()
        self.page = PageStatistics(type="statistics")

    # -- the leg's verbs -----------------------------------------------------------------------------------

    def objection(self, command: LegCommand) -> str | None:
        """A page can be spoken with and be held, and no more."""
        if isinstance(command, Hold):
            return None
        return f"'{command.kind}' is not possible on a call from a browser"

    def dial(self) -> None:
        """Never asked: see `objection`."""

    def answer(self) -> None:
        """The agent is there."""
        self._answered, self._heard_at = True, self._loop.time()
        self._connection.send(Answered(call=self._call, rate_hz=RATE_HZ))

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """The route's message where it has one; the end is told by the gateway, once."""
        if fallback.has_message:
            self.parting = fallback

    def hang_up(self, termination: Termination) -> None:
        """Nothing here: the gateway tells every end, whoever's doing it was."""

    def transfer(self, command: Transfer) -> Literal["refer", "bridge", "dial"]:
        """Never asked: see `objection`."""
        return "refer"

    def cancel_transfer(self) -> None:
        """Nothing runs."""

    def send_dtmf(self, digits: str) -> None:
        """Never asked: see `objection`."""

    def hold(self, held: bool) -> None:
        """The leg plays the waiting tone; the page hears nothing else of it."""

    def send_now(self) -> None:
        """A talkspurt begins."""
        self._send_next()

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far; `rtp_*` are the frames that came from and went to the page."""
        audio, stream, sent = self.audio, self._connection.stream.counters, self._connection.counters
        uplink, bus = audio.uplink.counters, audio.statistics()
        line = {
            "rtp_received": audio.published + audio.unpublished - uplink["filled"] + uplink["overrun"]
            + uplink["unowned"],
            "rtp_late": stream["dropped"],
            "rtp_malformed": stream["malformed"],
            "rtp_sent": sent["audio_sent"],
            "rtp_unsent": sent["audio_dropped"],
            "dn_underrun": bus.dn_underrun + self.page.underruns,
        }  # fmt: skip
        return bus.model_copy(update=line)

    # -- time and media ------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """20 ms have passed."""
        self.audio.fill(now)
        self.playout.expire(now)
        self._send_next()
        if self._answered and now - self._heard_at > MEDIA_TIMEOUT_S:
            self._heard_at = now
            self._end_soon(Termination.of(Reason.RTP_TIMEOUT, f"no audio from the page for {MEDIA_TIMEOUT_S:g} s"))

    def media_failed(self) -> None:
        """A defect in this call's media."""
        self._end_soon(Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway's media; see its log"))

    def _end_soon(self, why: Termination) -> None:
        """Not from within the tick that all calls share."""
        if self.shell is not None:
            self._loop.call_soon(self.shell.end, why)

    def _send_next(self) -> None:
        if not self.playout.has_room:
            return
        pcm = self.audio.tick()
        if pcm is not None:
            self._connection.send_audio(downlink(self.playout.hand_over(len(pcm) // 2), pcm))

    def _flush(self, generation: int) -> None:
        self._connection.drop_audio()
        self._connection.send(Flush(generation=generation))

    def heard(self, frames: list[bytes]) -> None:
        """Audio from the page."""
        self.playout.page_played(self._connection.stream.position)
        now = self._heard_at = self._loop.time()
        for pcm in frames:
            self.audio.received(pcm, now)

    def told(self, message: FromPage) -> None:
        """A message from the page."""
        match message:
            case PageFlushed():
                self.playout.page_flushed(message.generation, message.position)
            case PageStatistics():
                self.page = message
            case MutePressed():
                self._connection.stream.muted = message.muted
            case KeyPressed() if self.shell is not None and self._may_press():
                self.shell.dtmf(message.digit)
            case HandBackPressed() | TransferPressed():
                self._connection.send(NotDone(what=message.type, error="only an operator who took a call over can"))
            case Hello() | HangUpPressed() | KeyPressed():
                pass  # Hello came before; hanging up is the reader's business

    def _may_press(self) -> bool:
        now = self._loop.time()
        refilled = self._keys_allowed + KEYS_PER_S * (now - self._pressed_at)
        self._keys_allowed, self._pressed_at = min(KEYS_AT_ONCE, refilled), now
        if self._keys_allowed < 1:
            self._connection.counters["keys_dropped"] += 1
            return False
        self._keys_allowed -= 1
        return True

    def counted(self) -> Counter[str]:
        """For the metrics of ended calls."""
        page, media = self.page, self.statistics().counters()
        return Counter(media | {"page_trimmed": page.trimmed, "page_underruns": page.underruns,
                                "page_unsent": page.unsent})  # fmt: skip
