"""A pipeline backend against a rehearsal server, with a tone for a voice or the server's own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

from libs.audio.tone import silence, tone
from libs.contracts.agent import AgentConfig
from libs.contracts.offer import Offer
from services.ai_session.backends import port
from services.ai_session.backends.pipeline import plan_pipeline
from services.ai_session.backends.pipeline_stages import HttpEndpoint, Stages
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS, Settings
from services.ai_session.voices.factory import Voices
from services.ai_session.voices.port import Chunk, Sound, VoiceError

MODELS = load(BUILT_IN_MODELS)
MS_PER_CHARACTER = 20


def babble(ms, rate_hz=8000):
    """What varies as speech does: syllables of 80 ms at changing pitch and level."""
    syllables = [tone(200 + 60 * (number % 5), 80, rate_hz, (-12, -30)[number % 2]) for number in range(ms // 80 + 1)]
    return b"".join(syllables)[: 2 * rate_hz * ms // 1000]


class ToneVoice:
    """Twenty ms of tone per character, in chunks of odd lengths; `fail` has errors for the next texts."""

    def __init__(self, rate_hz=8000):
        self.sound = Sound("test", "tone", "a", rate_hz)
        self.spoken, self.fail, self.cut = [], [], []
        self.held = None  # an event that texts wait for

    def for_agent(self, agent, rate_hz):
        return self

    async def speak(self, text):
        self.spoken.append(text)
        if self.fail and (error := self.fail.pop(0)) is not None:
            raise VoiceError(*error[:2], retry=error[2])
        pcm = tone(440, MS_PER_CHARACTER * len(text), self.sound.rate_hz, -20)
        try:
            for at in range(0, len(pcm), 1202):
                yield Chunk(pcm[at : at + 1202])
                if self.held is not None:
                    await self.held.wait()
                await asyncio.sleep(0)
        except (GeneratorExit, asyncio.CancelledError):
            self.cut.append(text)
            raise
        yield Chunk(b"", port.UsageCounted("speech", "tone", "", {"characters": len(text)}))

    async def close(self):
        """Nothing to close."""


def stages_at(base_url, voices=None, **other):
    endpoint = HttpEndpoint(base_url, "k")
    stages = Stages(endpoint, endpoint, "gpt-5.6-luna", MODELS, voices or ToneVoice())
    for name, value in other.items():
        setattr(stages, name, value)
    return stages


def voices_at(base_url):
    return Voices(Settings(openai_base_url=base_url, openai_api_key="k", nats_url="nats://unused"), MODELS)


def offer(call="call-1", **fields):
    agent = AgentConfig(name="a", backend="pipeline", **fields)
    return Offer(call=call, org="o", gw="g", epoch=1, caller="1", callee="2", agent=agent)


class Caller:
    """Drives a backend as a session does: feeds audio, answers turns, and waits for events."""

    def __init__(self, stages, agent_offer, answers=True):
        self.events, self._arrived = [], asyncio.Event()
        self.answers = answers
        self.backend = plan_pipeline(stages, agent_offer).make(self._take)

    def _take(self, event):
        self.events.append(event)
        self._arrived.set()
        if self.answers and isinstance(event, port.CallerTranscript) and event.text:
            self.backend.start_response(None)

    def of(self, *kinds):
        return [event for event in self.events if isinstance(event, kinds)]

    def order(self, *kinds):
        return [type(event) for event in self.of(*kinds)]

    async def until(self, kind, count=1, within_s=5):
        try:
            async with asyncio.timeout(within_s):
                while len(self.of(kind)) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} came: {self.events}") from None
        return self.of(kind)[count - 1]

    def hear(self, *parts):
        for pcm in parts:
            for at in range(0, len(pcm), 320):
                self.backend.feed(pcm[at : at + 320])

    def say(self, ms=500):
        """An utterance with the silence that ends it."""
        self.hear(babble(ms), silence(1000, 8000))

    def text(self, response=None):
        deltas = self.of(port.TextDelta)
        return "".join(delta.text for delta in deltas if response in (None, delta.response))

    @property
    def samples(self):
        return sum(len(delta.pcm) for delta in self.of(port.AudioDelta)) // 2


@asynccontextmanager
async def a_caller(stages, agent_offer=None, *, instructions="Be kind.", tools=(), history=(), answers=True):
    caller = Caller(stages, agent_offer or offer(), answers)
    try:
        await caller.backend.open(port.Opening(instructions, tools, history))
        yield caller
    finally:
        with suppress(asyncio.CancelledError):
            await caller.backend.close()
        await stages.close()
