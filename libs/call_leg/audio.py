"""One call's audio between an entrance and the bus: PCM frames up and down, fenced, counted.

Synchronous and without a clock of its own; the entrance calls `received` for what the caller says and `tick`
every 20 ms for what the caller hears. Nothing here allocates per frame beyond the frame itself.
"""

from __future__ import annotations

from collections.abc import Callable

from libs.audio.fade import fade_in, fade_out
from libs.call_leg.playout import Pacing, Playout
from libs.call_leg.uplink import Uplink
from libs.contracts import subjects
from libs.contracts.frame import AudioFrame, Codec, Flag, FrameError, pack, unpack
from libs.contracts.media import MediaStatistics

FLUSHED, CONCEALED = Flag.FLUSHED.value, Flag.CONCEALED.value  # plain integers: enum arithmetic is slow
NOBODY = "none"  # stands for the worker in audio subjects while nobody owns the call
Publish = Callable[[str, bytes], bool]


class CallAudio:
    """One per call. `publish` sends a frame on the bus and says whether it could."""

    def __init__(self, org: str, gw: str, call: str, publish: Publish, *, rate_hz: int = 8000) -> None:
        self.org, self._gw, self.call = org, gw, call
        self._publish = publish
        self._codec = Codec.of_rate(rate_hz)
        self.frame_samples = self._codec.frame_samples
        self._silence = bytes(2 * self.frame_samples)
        self.playout = Playout(2 * self.frame_samples, fades=True)
        self.uplink = Uplink()
        self.wk: str | None = None
        self.muted = False  # the agent is played out unheard: it goes on in its own time, and repeats nothing
        self._voice = ""  # what the last tick had of the agent: audible, muted, nothing
        self.held = False  # by us: the other side hears the filler alone, whoever speaks
        self._subject = ""
        self._epoch = 0
        self._seq = 0
        self._timestamp = 0
        self._filler = b""
        self._filler_at = 0
        self._instead = b""  # of the agent's words
        self._when_quiet: Callable[[], object] | None = None
        self._quiet_after: int | None = None
        self.is_overheard = False  # somebody taps or records: what the caller hears goes on the bus, too
        self._unowned_subject = subjects.audio(org, gw, NOBODY, call, "up")
        self._out_subject = subjects.audio(org, gw, NOBODY, call, "out")
        self._out_seq = 0
        self._out_timestamp = 0
        self.published = 0
        self.unpublished = 0
        self.malformed = 0
        self.foreign = 0

    # -- ownership ------------------------------------------------------------------------------------------

    def start(self, wk: str, epoch: int, pacing: Pacing, now: float) -> None:
        """A worker claimed the call: fence to it, and let frames flow."""
        self.wk = wk
        self._epoch = epoch
        self._subject = subjects.audio(self.org, self._gw, wk, self.call, "up")
        self._seq = self._timestamp = 0
        self._instead, self._when_quiet = b"", None
        self._rename_out()
        self.playout.begin_epoch(epoch, pacing)
        self.uplink.start(now)

    def stop(self) -> None:
        """Nobody owns the call: nothing goes up, and what the last owner sent is not played any more."""
        self.wk = None
        self._rename_out()
        self._instead, self._when_quiet = b"", None
        self.uplink.stop()
        self.playout.begin_epoch(-1)

    # -- up --------------------------------------------------------------------------------------------------

    def received(self, pcm: bytes, now: float, flags: int = 0) -> None:
        """20 ms from the caller, in order. Dropped (counted) when nobody owns the call or too much comes."""
        if self.uplink.admit(now):
            self._send(pcm, flags)
        elif self.is_overheard and self.wk is None:
            self._publish_overheard(self._unowned_subject, pcm)

    def _publish_overheard(self, subject: str, pcm: bytes) -> None:
        frame = AudioFrame(self._codec, 0, self._epoch, self._out_seq, self._out_timestamp, pcm, self.playout.played)
        self._publish(subject, pack(frame))

    def _rename_out(self) -> None:
        self._out_subject = subjects.audio(self.org, self._gw, self.wk or NOBODY, self.call, "out")

    def _send(self, pcm: bytes, flags: int) -> None:
        playout = self.playout
        if playout.flushed:
            flags |= FLUSHED
        frame = AudioFrame(self._codec, flags, self._epoch, self._seq, self._timestamp, pcm, playout.played)
        self._seq += 1
        self._timestamp += len(pcm) // 2
        if self._publish(self._subject, pack(frame)):
            self.published += 1
        else:
            self.unpublished += 1

    # -- down ------------------------------------------------------------------------------------------------

    def heard_from_worker(self, wk: str, data: bytes) -> bool:
        """A `dn` frame arrived. True when it begins a talkspurt, which the entrance sends at once."""
        if wk != self.wk:
            self.foreign += 1
            return False
        try:
            frame = unpack(data)
        except FrameError:
            self.malformed += 1
            return False
        if frame.codec != self._codec:
            self.malformed += 1
            return False
        return self.playout.push(frame)

    def fill(self, now: float, conceal: Callable[[], bytes] | None = None) -> None:
        """Make up for frames that the network owes (R2): concealment where the entrance can, else silence."""
        for _ in range(self.uplink.due(now)):
            self._send(conceal() if conceal else self._silence, CONCEALED)

    def tick(self) -> bytes | None:
        """The next 20 ms for the caller, or None for silence."""
        pcm = self._next()
        if self.is_overheard:
            self._out_seq += 1  # one frame a tick, empty for silence
            self._out_timestamp += self.frame_samples
            self._publish_overheard(self._out_subject, pcm or b"")
        return pcm

    def _next(self) -> bytes | None:
        pcm = self.playout.pop()
        instead = self._instead  # of the last frame, too
        if self._when_quiet is not None:
            self._watch_quiet()
        if instead:
            return self._next_of(instead)
        if pcm is None:
            self._voice = ""
        if pcm is None or self.held:  # what is said meanwhile counts as played: it is not said again afterwards
            return self._next_of(self._filler) if self._filler else None
        before, self._voice = self._voice, "muted" if self.muted else "audible"
        if self.muted:
            return fade_out(pcm) if before == "audible" else None
        if before == "muted":
            pcm = fade_in(pcm)
        return pcm if len(pcm) == len(self._silence) else pcm + self._silence[len(pcm) :]

    def set_filler(self, loop_pcm: bytes) -> None:
        """Play this over and over where the agent says nothing; empty stops it."""
        self._filler, self._filler_at = loop_pcm, 0

    def hide_announcement(self, loop_pcm: bytes) -> None:
        """Play this in place of what `when_quiet` waits for, until that was said: it was meant for somebody else."""
        if self._when_quiet is not None:
            self._instead, self._filler_at, self._when_quiet = loop_pcm, 0, self._unhide

    def _unhide(self) -> None:
        self._instead = b""

    def when_quiet(self, then: Callable[[], object], more: int = 0) -> None:
        """Call this once, from `tick`: the agent is quiet, or so many more responses are over. Gone with the owner."""
        self._when_quiet = then
        self._quiet_after = self.playout.responses + more if more else None

    def _watch_quiet(self) -> None:
        playout, then, after = self.playout, self._when_quiet, self._quiet_after
        if then is not None and (playout.is_quiet if after is None else playout.responses >= after):
            self._when_quiet = None
            then()

    def _next_of(self, loop_pcm: bytes) -> bytes:
        size = len(self._silence)
        piece = loop_pcm[self._filler_at : self._filler_at + size]
        self._filler_at = (self._filler_at + size) % (len(loop_pcm) - len(loop_pcm) % size or size)
        return piece + self._silence[len(piece) :]

    def statistics(self) -> MediaStatistics:
        """The bus's side of the call so far, for the entrance to complete with what its line counted."""
        uplink, playout = self.uplink.counters, self.playout.counters
        return MediaStatistics(
            up_filled=uplink["filled"],
            up_published=self.published,
            up_dropped=self.unpublished + uplink["overrun"] + uplink["unowned"],
            dn_received=playout["received"],
            dn_control=playout["control"],
            dn_stale=playout["stale"],
            dn_fenced=playout["fenced"] - playout["discarded"] + self.foreign,
            dn_malformed=self.malformed,
            dn_lost=playout["lost"],
            dn_played=playout["played"],
            dn_trimmed=playout["trimmed"],
            dn_flushed=playout["flushed"],
            dn_discarded=playout["discarded"],
            dn_waiting=self.playout.depth,
            dn_underrun=playout["underrun"],
        )
