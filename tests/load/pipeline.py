"""Many pipeline conversations at once: `python -m tests.load.pipeline`, by default 50 for 30 s.

Starts the rehearsal server as a process and the backends of one worker in this one, fed in real time as the bus does.
Each caller speaks for two seconds and waits for the answer to be spoken before the next turn. Told are the turns that
were answered, the times of the stages, and what this process needed of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from libs.audio.tone import comfort_noise, silence, tone
from libs.contracts.agent import AgentConfig
from libs.contracts.offer import Offer
from services.ai_session.backends import port
from services.ai_session.backends.pipeline import plan_pipeline
from services.ai_session.backends.pipeline_stages import HttpEndpoint, Stages
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS, Settings
from services.ai_session.voices.cache import SpeechCache
from services.ai_session.voices.factory import Voices
from tests.load.conversations import quantiles
from tests.support.rehearsal import rehearsal_process

FRAME_S = 0.02
FRAME_BYTES = 320
BYTES_PER_S = 16_000


def babble() -> bytes:
    """Two seconds of what varies as speech does."""
    return b"".join(tone(200 + 60 * (number % 5), 80, 8000, (-12, -30)[number % 2]) for number in range(25))


@dataclass(slots=True)
class Caller:
    """One conversation: speaks when nobody has the floor."""

    speech: bytes
    pauses: bytes
    counts: Counter[str]
    waits_s: list[float]
    at: int = 0
    busy_until: float = 0.0
    stopped_at: float = 0.0
    waiting: bool = False
    backend: port.SpeechBackend | None = None
    audio_bytes: dict[str, int] = field(default_factory=dict)

    def frame(self, now: float) -> bytes:
        """The next 20 ms."""
        if self.at == 0 and (self.waiting or now < self.busy_until):
            return self.pauses
        piece = self.speech[self.at : self.at + FRAME_BYTES]
        self.at += FRAME_BYTES
        if self.at >= len(self.speech):
            self.at, self.waiting = 0, True
        return piece

    def take(self, event: port.BackendEvent) -> None:
        """An event of the backend."""
        now = time.monotonic()
        match event:
            case port.SpeechStopped():
                self.stopped_at = now
            case port.CallerTranscript(_, text, failed):
                self.counts["transcripts_failed" if failed else "transcripts"] += 1
                if text and self.backend is not None:
                    self.backend.start_response(None)
            case port.AudioDelta(response, _, _, pcm):
                if response not in self.audio_bytes:
                    self.waits_s.append(now - self.stopped_at)
                    self.busy_until = now
                self.audio_bytes[response] = self.audio_bytes.get(response, 0) + len(pcm)
                self.busy_until += len(pcm) / BYTES_PER_S
            case port.ResponseEnded(response, status):
                self.counts[status] += 1
                self.waiting = False
                self.audio_bytes.pop(response, None)
            case port.SpeechDiscarded() | port.Trouble() | port.Lost():
                self.counts[type(event).__name__] += 1
                self.waiting = False
            case _:
                pass


async def converse(base_url: str, calls: int, seconds: float) -> bool:
    """Run the conversations and tell what became of them; False when a turn was not answered."""
    models = load(BUILT_IN_MODELS)
    voices = Voices(Settings(openai_base_url=base_url, openai_api_key="k"), models, SpeechCache(None, 0))
    endpoint = HttpEndpoint(base_url, "k")
    stages = Stages(endpoint, endpoint, "gpt-5.6-luna", models, voices)
    counts: Counter[str] = Counter()
    waits_s: list[float] = []
    speech, noise = babble() + silence(1200, 8000), comfort_noise(20, 8000, -65.0)
    callers = [Caller(speech, noise, counts, waits_s) for _ in range(calls)]
    agent = AgentConfig(name="load", backend="pipeline")
    for number, caller in enumerate(callers):
        offer = Offer(call=f"load-{number}", org="o", gw="g", epoch=1, caller="1", callee="2", agent=agent)
        caller.backend = plan_pipeline(stages, offer).make(caller.take)
        await caller.backend.open(port.Opening("Be kind."))
        caller.busy_until = time.monotonic() + 3.0 * number / calls  # they do not speak in chorus
    began, cpu = time.monotonic(), time.process_time()
    due, latest_s = began, 0.0
    while (now := time.monotonic()) - began < seconds:
        latest_s = max(latest_s, now - due)
        for caller in callers:
            assert caller.backend is not None
            caller.backend.feed(caller.frame(now))
        due += FRAME_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    for caller in callers:
        assert caller.backend is not None
        await caller.backend.close()
    await stages.close()
    await voices.close()
    print(f"{calls} calls, {wall_s:.0f} s: {dict(counts)}")
    print(f"end of turn to first audio, ms (median / 95 % / longest): {quantiles(waits_s)}")
    for stage, times in stages.times.recent.items():
        print(f"{stage}, ms: {quantiles(list(times))}")
    print(f"{100 * cpu_s / wall_s:.0f} % of a core, {1000 * latest_s:.0f} ms the latest frame; {dict(stages.counters)}")
    bad = counts["failed"] + counts["transcripts_failed"] + counts["Lost"] + counts["Trouble"]
    return not bad and counts["completed"] >= calls


async def run(calls: int, seconds: float) -> bool:
    """Start the rehearsal server and hold the conversations."""
    async with rehearsal_process() as url:
        return await converse(f"{url}/v1", calls, seconds)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    chosen = parser.parse_args()
    return 0 if asyncio.run(run(min(chosen.calls, 200), min(chosen.seconds, 300.0))) else 1


if __name__ == "__main__":
    sys.exit(main())
