"""Whether a person or a machine took an outbound call, and when a machine is ready for a message. A core without I/O.

Theory of operation. A person says one or two words and waits; a machine greets at length, in words of its own, and
gives a tone. So, in the first `WATCH_S` of a call:

 - speech of `LONG_GREETING_S` without a pause of `PAUSE_S` is a machine's, so are typical words in the transcript of
   the first turns, and so is a steady tone between 400 and 1500 Hz of `TONE_MS` or more;
 - speech that ends before that is a person's, unless typical words come within `WORDS_S`; so is silence.

A machine is ready for a message when its tone has ended, or `QUIET_S` after the last thing that it said, or at the
latest after `PATIENCE_S`. Levels are judged per frame of 20 ms; a tone is a frame with nearly all of its energy in one
spectral line that stays where it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

import numpy as np

from libs.audio.level import dbfs
from libs.contracts.offer import Offer

FRAME_S = 0.02
SPEECH_DBFS = -38.0
LONG_GREETING_S = 2.6
PAUSE_S = 0.5
TONE_MS = 160
TONE_HZ = (400.0, 1500.0)
TONE_PURITY = 0.75  # of the energy in its three strongest lines
WORDS_S = 2.5  # for the transcript of a short greeting to come
WATCH_S = 20.0
NOBODY_S = 4.0  # nothing was said: a person listens
QUIET_S = 2.5
PATIENCE_S = 40.0
_WORDS = re.compile(
    r"signalton|piepton|nach dem ton|mailbox|anrufbeantworter|sprachbox|hinterlassen sie|nachricht (?:nach|hinterl)|"
    r"nicht erreichbar|zur ?zeit nicht|persönlich (?:ent|erreich)|"
    r"voice ?mail|after the (?:tone|beep)|leave (?:a|your|me a) (?:message|name)|not available|record your message|"
    r"unable to (?:take|answer)|can(?:'|no)?t (?:take|come to|answer)",
    re.IGNORECASE,
)


class Found(Enum):
    """What was found out."""

    PERSON = auto()
    MACHINE = auto()
    READY = auto()  # the machine records


Why = Literal["greeting", "words", "tone", "short_answer", "silence", "time"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out, and by what."""

    found: Found
    why: Why


def is_typical(text: str) -> bool:
    """Whether these are a machine's words."""
    return _WORDS.search(text) is not None


class _Tone:
    """A steady tone in a stream of frames."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._hz = 0.0
        self.ms = 0.0

    def frame(self, pcm: bytes) -> None:
        samples = np.frombuffer(pcm, "<i2").astype(np.float32)
        power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
        line = int(power.argmax())
        hz = line * self._rate_hz / len(samples)
        pure = float(power[max(0, line - 1) : line + 2].sum()) >= TONE_PURITY * float(power.sum())
        same = abs(hz - self._hz) <= self._rate_hz / len(samples)
        self.ms = (self.ms + FRAME_S * 1000 if same else FRAME_S * 1000) if pure and _is_beep(hz) else 0.0
        self._hz = hz


def _is_beep(hz: float) -> bool:
    return TONE_HZ[0] <= hz <= TONE_HZ[1]


class MachineWatch:
    """One outbound call, from the answer on. Methods return what was found out, once each."""

    def __init__(self, rate_hz: int) -> None:
        self._tone = _Tone(rate_hz)
        self._heard_s = 0.0  # since the answer, by frames
        self._speech_s = 0.0  # without a longer pause
        self._quiet_s = 0.0
        self._has_spoken = False
        self._tone_was_heard = False
        self._is_machine = False
        self.is_over = False  # nothing more will be found out

    def frame(self, pcm: bytes) -> Finding | None:
        """20 ms of the other side."""
        if self.is_over:
            return None
        self._heard_s += FRAME_S
        loud = dbfs(pcm) >= SPEECH_DBFS
        if loud:
            self._tone.frame(pcm)
            self._speech_s += self._quiet_s + FRAME_S if self._has_spoken and self._speech_s else FRAME_S
            self._quiet_s, self._has_spoken = 0.0, True
        else:
            self._quiet_s += FRAME_S
            if self._quiet_s >= PAUSE_S:
                self._speech_s = 0.0
        return self._when_ready(loud) if self._is_machine else self._who(loud)

    def words(self, text: str) -> Finding | None:
        """The transcript of a turn."""
        return self._machine("words") if not (self.is_over or self._is_machine) and is_typical(text) else None

    def _who(self, loud: bool) -> Finding | None:
        if self._tone.ms >= TONE_MS:
            self._tone_was_heard = True
            return self._machine("tone")
        if self._speech_s >= LONG_GREETING_S:
            return self._machine("greeting")
        if not self._has_spoken:
            return self._person("silence") if self._heard_s >= NOBODY_S else None
        if not loud and self._quiet_s >= WORDS_S:
            return self._person("short_answer")
        return self._person("time") if self._heard_s >= WATCH_S else None

    def _when_ready(self, loud: bool) -> Finding | None:
        self._tone_was_heard = self._tone_was_heard or (loud and self._tone.ms >= TONE_MS)
        if self._tone_was_heard and not loud and self._quiet_s >= 2 * FRAME_S:
            return self._ready("tone")
        if self._quiet_s >= QUIET_S:
            return self._ready("silence")
        return self._ready("time") if self._heard_s >= PATIENCE_S else None

    def _machine(self, why: Why) -> Finding:
        self._is_machine = True
        return Finding(Found.MACHINE, why)

    def _person(self, why: Why) -> Finding:
        self.is_over = True
        return Finding(Found.PERSON, why)

    def _ready(self, why: Why) -> Finding:
        self.is_over = True
        return Finding(Found.READY, why)


def watch_for(offer: Offer) -> MachineWatch | None:
    """None where it does not matter who takes the call; a session that takes it over comes too late to tell."""
    wanted = offer.agent.answering_machine.then != "ignore"
    is_ours = offer.direction == "outbound" and offer.resume is None
    return MachineWatch(offer.state.rate_hz) if wanted and is_ours else None
