"""Drives a RealtimeSession core by a script, every event checked against the openai package."""

import base64
import itertools
from random import Random

from libs.audio.g711 import Law
from services.rehearsal.faults import Fault, FaultPlan
from services.rehearsal.realtime import RealtimeSession
from services.rehearsal.responses import Pace
from services.rehearsal.scenario import Scenario, ScenarioSet
from services.rehearsal.session_options import SessionOptions
from services.rehearsal.speech import babble
from services.rehearsal.validation import validate_server_event

SIMPLE = Scenario(name="simple", greeting="Guten Tag, was kann ich tun?", default_answers=["Aha, das ist schön."])
PCMU = {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcmu"}}}


class BabbleVoice:
    """Speech without clips or programs: 100 ms of sound for each word."""

    def pcm(self, text):
        return babble("x")[: 1600 * len(text.split())].ljust(1600 * len(text.split()), b"\x10")

    def encoded(self, text, audio_format):
        from services.rehearsal.speech import encode

        return encode(self.pcm(text), audio_format)


class Driver:
    def __init__(self, scenario=SIMPLE, *, faults=(), session=None, pace=None, listener=None, **options):
        numbers = itertools.count(1)
        self.now = 0.0
        self.frames = []
        self.core = RealtimeSession(
            SessionOptions(
                session_id="sess_1",
                expires_at=1,
                pace=pace or Pace(speed=8, first_byte_ms=100, tool_call_ms=20),
                **options,
            ),
            scenarios=ScenarioSet([scenario], scenario.name),
            voice=BabbleVoice(),
            new_id=lambda prefix: f"{prefix}_{next(numbers)}",
            rng=Random(7),
            faults=FaultPlan(Fault.model_validate(f) for f in faults),
            check=validate_server_event,
            listener=listener,
        )
        self._take(self.core.start())
        if session is not None:
            self.update(**session)

    def _take(self, outputs):
        self.frames.extend(outputs)
        return outputs

    def send(self, kind, **fields):
        return self._take(self.core.receive({"type": kind, **fields}, self.now))

    def update(self, **session):
        return self.send("session.update", session={"type": "realtime", **session})

    def say(self, ms, *, loud=True, law=Law.PCMU, run=False):
        """Append audio; with ``run`` time passes as fast as the audio does."""
        pcm = (babble("a") * 20)[: 16 * ms] if loud else bytes(16 * ms)
        data = law.encode(pcm)
        found = []
        for start in range(0, len(data), 160):
            found += self.send("input_audio_buffer.append", audio=base64.b64encode(data[start : start + 160]).decode())
            if run:
                found += self.until(self.now + 0.02)
        return found

    def turn(self, ms=600, **options):
        return self.say(ms, **options) + self.say(600, loud=False, **options)

    def until(self, when):
        found = []
        while (due := self.core.deadline()) is not None and due <= when:
            self.now = max(self.now, due)
            found += self._take(self.core.expire(self.now))
        self.now = max(self.now, when)
        return found

    def settle(self):
        """Let everything scheduled within the next minute happen."""
        return self.until(self.now + 60)

    def tool(self, call_id, output):
        return self.send(
            "conversation.item.create",
            item={"type": "function_call_output", "call_id": call_id, "output": output},
        )

    def types(self):
        return kinds(self.frames)


def kinds(frames):
    return [frame["type"] if isinstance(frame, dict) else type(frame).__name__ for frame in frames]


def of(frames, kind):
    return [frame for frame in frames if isinstance(frame, dict) and frame["type"] == kind]


def one(frames, kind):
    found = of(frames, kind)
    assert len(found) == 1, kinds(frames)
    return found[0]


def squeezed(frames):
    """Kinds without repetition of neighbours, deltas as one."""
    names = ["delta" if kind.endswith(".delta") else kind for kind in kinds(frames)]
    return [name for name, _ in itertools.groupby(names)]


def error_of(frames):
    return one(frames, "error")["error"]
