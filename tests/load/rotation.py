"""A long call over short model sessions: `python -m tests.load.rotation`, by default 200 s with sessions of 60 s.

Starts nats-server, the SIP gateway and an AI worker as processes, the rehearsal server in this one, and places one
call over SIP. Caller and agent take turns all the time. Told is what the rehearsal server knows: whether every session
had the whole conversation before it, and how much of the agent's audio the caller heard.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass

import numpy as np

from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts.agent import AgentConfig, TurnTaking
from libs.contracts.config import RouteConfig
from libs.softphone.call import PhoneCall
from libs.softphone.phone import Softphone
from services.ai_session.rotation import SHORTEST_S
from services.rehearsal.ground_truth import GroundTruth
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.platform import Platform, platform

AUDIBLE = 1000  # of 32767; the agent's tone is far louder, and silence is silence
CALLER = tone(300, 300, 8000, -15)
PAUSE_S = 1.5  # between the agent's answer and the caller's next question
MOST_TURNS = 400


class Tones:
    """The agent's voice: 400 ms of tone for every sentence, so that what is missing of it can be counted."""

    def pcm(self, text: str) -> bytes:
        return tone(440, 400, 8000, -12)

    def encoded(self, text: str, audio_format: str) -> bytes:
        law = {"audio/pcmu": Law.PCMU, "audio/pcma": Law.PCMA}[audio_format]
        return law.encode(self.pcm(text))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the call."""

    turns: int
    rotated: int
    forced: int
    postponed: int
    reconnected: int
    sessions: int
    said_ms: float
    heard_ms: float
    missing: tuple[str, ...]  # of the conversation, in the last session
    client_errors: int

    @property
    def lost_ms(self) -> float:
        """Agent audio that the server made and the caller did not hear."""
        return self.said_ms - self.heard_ms


def scenario() -> Scenario:
    turns = [{"caller": f"Frage {n}.", "answer": f"Antwort {n}."} for n in range(MOST_TURNS)]
    return Scenario.model_validate({"name": "long", "greeting": "Guten Tag.", "turns": turns})


async def hold_call(session_s: float, call_s: float, *, spares: int = 1) -> Outcome:
    """One call of `call_s` seconds, with model sessions of at most `session_s`."""
    settings = RehearsalSettings(
        default_scenario="long", session_limit_s=session_s, first_byte_ms=50, transcription_delay_ms=100
    )
    agent = AgentConfig(name="long", greeting="Guten Tag.", turn_taking=TurnTaking(silence_ms=200))
    route = RouteConfig(name="long", match=("long",), agent="long")
    async with Rehearsal.start(settings, scenarios=[scenario()], speech=Tones()) as endpoint:
        worker = {
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": "rehearsal",
            "WORKER_SPARE_SESSIONS": str(spares),
        }
        if session_s < SHORTEST_S:  # the server's word alone is not believed
            worker["SESSION_MAX_S"] = str(session_s)
        async with (
            platform(documents=[agent, route], worker_environment=worker) as running,
            await Softphone.open() as phone,
        ):
            call = await phone.call(running.sip_uri("long"))
            turns = await _talk(call, time.monotonic() + call_s)
            await call.hang_up()
            return await _outcome(running, endpoint.sessions.all(), call, turns)


async def _talk(call: PhoneCall, until: float) -> int:
    """Take turns; their number."""
    turns = 0
    await call.wait_for_speech()
    await call.wait_for_silence(300)
    while time.monotonic() < until and turns < MOST_TURNS:
        await asyncio.sleep(PAUSE_S)
        await call.play(CALLER).wait()
        await call.wait_for_speech()
        await call.wait_for_silence(300)
        turns += 1
    return turns


async def _outcome(running: Platform, truths: list[GroundTruth], call: PhoneCall, turns: int) -> Outcome:
    async def counted(kind: str) -> int:
        return int(await running.metric("ai_session-1", "callbus_worker_session_events_total", event=kind))

    served = [truth for truth in truths if truth.responses]
    said = sum(item.sent_ms for truth in served for item in truth.items() if item.origin == "model")
    samples = np.abs(np.frombuffer(bytes(call.heard), "<i2").astype(int))
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160).max(axis=1)
    expected = ["Guten Tag.", *(text for n in range(turns) for text in (f"Frage {n}.", f"Antwort {n}."))]
    last = [item.text for item in served[-1].items() if item.kind == "message"]
    return Outcome(
        turns=turns,
        rotated=await counted("rotated"),
        forced=await counted("rotations_forced"),
        postponed=await counted("rotations_postponed"),
        reconnected=await counted("reconnected"),
        sessions=len(served),
        said_ms=said,
        heard_ms=20.0 * int((frames > AUDIBLE).sum()),
        missing=tuple(text for text in expected if text not in last),
        client_errors=sum(len(truth.client_errors) for truth in served),
    )


def main() -> int:
    """The exit code is 0 when nothing of the conversation and at most 200 ms of audio were lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--session", type=float, default=60.0, help="longest model session, in seconds")
    parser.add_argument("--call", type=float, default=200.0, help="length of the call, in seconds")
    parser.add_argument("--spares", type=int, default=1, help="sessions that the worker keeps ready")
    options = parser.parse_args()
    outcome = asyncio.run(hold_call(options.session, options.call, spares=options.spares))
    print(outcome)
    print(f"agent audio lost: {outcome.lost_ms:.0f} ms of {outcome.said_ms / 1000:.1f} s")
    return 1 if outcome.missing or outcome.lost_ms > 200 or not outcome.rotated else 0


if __name__ == "__main__":
    sys.exit(main())
