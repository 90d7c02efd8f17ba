"""Whatever the model's server does: the call goes on or ends with its reason, and the record says what was heard.

One table of the faults that the rehearsal server knows, one worker, all calls at once. Which fault a session suffers is
written in its agent's model; that it did strike is checked. A connection without pongs, and arguments that are no JSON,
have their own tests in test_backends_faults.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import pytest

from libs.audio.tone import tone
from libs.contracts.agent import AgentConfig, Limits
from services.ai_session.__main__ import Backends
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import load
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.faults import Fault, FaultPlan, parse_fault
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import ended, gateway, running_worker
from tests.unit.ai_session.test_realtime import Speech, events_of, of_kind

GREETING, QUESTION, ANSWER = "Guten Tag. Was darf es sein?", "Zehn Bögen.", "Zehn Bögen sind notiert."
SCENARIO = Scenario.model_validate(
    {"name": "unit", "greeting": GREETING, "turns": [{"caller": QUESTION, "answer": ANSWER}]}
)
SPEECH = tone(300, 400, 8000, -15)
FRAME_MS, FRAME_BYTES = 20, 320
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Case:
    """A fault of a call's first session, or of all; how the call ends, None: not before the caller hangs up.

    Several faults of one session are separated by `;`.
    """

    fault: str
    always: bool = False
    ends: str | None = None
    trouble: str | None = None  # its code, on the record
    unheard: bool = False  # nobody knows what the caller said, and the agent asks
    cuts_in: bool = False  # the caller speaks into the greeting


CASES = [
    # connect
    Case("refuse:status=401", always=True, ends="model_refused"),
    Case("refuse:status=403", always=True, ends="model_refused"),
    Case("refuse:status=404", always=True, ends="model_refused"),
    Case("refuse:status=429", always=True, ends="model_unreachable"),
    Case("refuse:status=500", always=True, ends="model_unreachable"),
    Case("refuse:status=429"),
    Case("refuse:status=500"),
    Case("hang_upgrade", always=True, ends="model_unreachable"),
    Case("no_session_created", always=True, ends="model_unreachable"),
    Case("no_session_updated", always=True, ends="model_unreachable"),
    Case("no_session_created"),
    # close
    *(
        Case(f"close:code={code},after_deltas=2", trouble=f"closed_{code}")
        for code in (1000, 1008, 1011, 1012, 1013, 4000)
    ),
    Case("close:code=1001,after_deltas=2", trouble="session_expired"),
    Case("abort:after_deltas=2", trouble="closed_1006"),
    Case("close:code=1011,after_ms=700", trouble="closed_1011"),
    Case("close:code=1011,turn=1", trouble="closed_1011", unheard=True),
    Case("close:code=1011", always=True, ends="model_failed", trouble="closed_1011"),
    Case("close:code=1008,reason=invalid_api_key,after_deltas=2", ends="model_failed", trouble="closed_1008"),
    # flow
    Case("stall:after_deltas=2,duration_ms=0", trouble="stalled"),
    Case("slow_drip:factor=0.8"),
    Case("burst"),
    Case("late_deltas;slow_drip:factor=0.4", cuts_in=True),
    Case("duplicate_deltas:deltas=3"),
    # shape
    Case("unknown_event:after_deltas=1"),
    Case("extra_field:times=9"),
    Case("missing_field"),
    Case("missing_field:event_type=session.created,field=session"),
    Case("malformed_json:times=2"),
    Case("malformed_base64:times=2"),
    Case("binary_frame:times=3"),
    Case("odd_bytes"),
    # errors
    Case("error:after_deltas=1", trouble="server_error"),
    Case("error:after_deltas=1,event_id=event-1", trouble="server_error"),
    Case("error:error_code=string_above_max_length,after_deltas=1", trouble="string_above_max_length"),
    Case("error:error_code=response_cancel_not_active,after_deltas=1"),
    Case("error:error_code=conversation_already_has_active_response,after_deltas=1"),
    Case("error:error_code=session_expired,after_deltas=2", trouble="session_expired"),
    *(
        Case(f"error:error_code={code},after_deltas=2", ends="model_failed", trouble=code)
        for code in ("insufficient_quota", "invalid_api_key", "account_deactivated", "billing_hard_limit_reached")
    ),
    Case("rate_limit", trouble="rate_limited"),
    Case("rate_limit:turn=1", trouble="rate_limited"),
    Case("incomplete:turn=1"),
    Case("incomplete:reason=content_filter,turn=1"),
    Case("transcription_failed", trouble="transcription_failed"),
    # format
    Case("pcm_instead"),
    Case("pcm_instead:times=2", ends="model_failed"),
]


class FaultyEndpoint(Rehearsal):
    """A session suffers what its model is named after."""

    asked: Counter[str]

    def take_faults(self, request, endpoint, *, turn=None) -> list[Fault]:
        number = int(request.query["model"].removeprefix("case-"))
        self.asked[number] += 1
        case = CASES[number]
        if not case.always and self.asked[number] > 1:
            return []
        return [parse_fault(fault) for fault in case.fault.split(";")]


class WatchedPlan(FaultPlan):
    """The faults of a session, and which of them it was spared."""

    def __init__(self, faults=(), *, started_at=0.0):
        self.ordered = tuple(faults)
        super().__init__(self.ordered, started_at=started_at)
        self.plans.append(self)

    plans: ClassVar[list[WatchedPlan]] = []

    def spared(self):
        return [fault for fault, times in self._left if fault in self.ordered and times == fault.times]


class Caller:
    """One call: hears the greeting, says one sentence, hears the answer, in real time."""

    def __init__(self, leg, *, cuts_in=False):
        self.leg, self.cuts_in = leg, cuts_in
        self.frames = [SPEECH[at : at + FRAME_BYTES] for at in range(0, len(SPEECH), FRAME_BYTES)]
        self.quiet = 0

    @property
    def is_over(self):
        return bool(self.leg.commanded("failed"))

    async def run(self):
        await self._until(lambda: self.is_over or self.leg.commanded("ready"))
        await (self._until(lambda: self.leg.heard) if self.cuts_in else self._hear())
        for frame in self.frames:
            await self._tick(frame)
        await self._hear()

    async def _hear(self):
        """The agent says something, and comes to an end."""
        before = len(self.leg.heard)
        await self._until(lambda: self.is_over or (len(self.leg.heard) > before and self.quiet >= 30))

    async def _until(self, done):
        while not done():
            await self._tick()

    async def _tick(self, pcm=None):
        before = len(self.leg.heard)
        await self.leg.tick(pcm)
        self.quiet = 0 if len(self.leg.heard) > before else self.quiet + 1
        await asyncio.sleep(FRAME_MS / 1000)


async def called(worker, client, number):
    """Place the call of a case; what became of it, as sentences about what is wrong."""
    case = CASES[number]
    agent = AgentConfig(
        name="unit", model=f"case-{number}", greeting=GREETING, limits=Limits(ready_timeout_s=1.5 if case.always else 5)
    )
    leg = FakeLeg(client, agent)
    await leg.start()
    await leg.offer(worker.id)
    session = worker._sessions[leg.call]
    finished = False
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await Caller(leg, cuts_in=case.cuts_in).run()
            finished = True
    await leg.release()
    async with asyncio.timeout(5):
        while session in worker._sessions.values() or session in worker._leaving:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return [f"{case.fault}: {wrong}" for wrong in judged(case, leg, await events_of(worker, leg), finished=finished)]


def judged(case, leg, record, *, finished):
    """What is not as the table says."""
    failures = [command.reason for command in leg.commanded("failed")]
    troubles = {trouble.code for trouble in of_kind(record, "session.trouble")}
    agent_turns, caller_turns = of_kind(record, "agent.turn"), of_kind(record, "caller.turn")
    heard_ms = len(leg.heard) / 16
    if not finished:
        yield "neither an answer nor an end came"
    if failures[:1] != ([case.ends] if case.ends else []):
        yield f"it ended with {failures}, not with {case.ends}"
    if case.cuts_in and [turn.interrupted for turn in agent_turns] != [True, False]:
        yield f"not one turn that was cut off and its answer, but {agent_turns}"
    if case.trouble and case.trouble not in troubles:
        yield f"the record tells of {troubles}, not of {case.trouble}"
    told_ms = sum(turn.heard_ms for turn in agent_turns)
    if abs(told_ms - heard_ms) > FRAME_MS * max(1, len(agent_turns)):
        yield f"{heard_ms:.0f} ms were heard, the record has {told_ms:.0f} ms"
    if case.unheard:
        if caller_turns or len(agent_turns) < 2:
            yield f"nobody asked the caller again: {[turn.text for turn in agent_turns]}"
    elif case.ends is None:
        failed = case.fault == "transcription_failed"
        if [(turn.text, turn.failed) for turn in caller_turns] != [("" if failed else QUESTION, failed)]:
            yield f"the caller's words are {[turn.text for turn in caller_turns]}"
        if not any(turn.heard_text and turn.heard_text in ANSWER for turn in agent_turns):
            yield f"the answer is not on the record: {[turn.heard_text for turn in agent_turns]}"


@pytest.mark.timeout(90)
async def test_every_fault_is_survived_or_ends_the_call_with_its_reason(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.realtime.STALL_S", 0.7)
    monkeypatch.setattr("services.rehearsal.http_realtime.FaultPlan", WatchedPlan)
    WatchedPlan.plans.clear()
    settings = RehearsalSettings(default_scenario="unit", first_byte_ms=20, transcription_delay_ms=50)
    async with FaultyEndpoint.start(settings, scenarios=[SCENARIO], speech=Speech()) as endpoint:
        endpoint.asked = Counter()
        model = Endpoint(endpoint.base_url, "k", "m", load(BUILT_IN_MODELS))
        async with running_worker(server.url, Backends(model), len(CASES)) as worker, gateway(server.url) as client:
            calls = [called(worker, client, number) for number in range(len(CASES))]
            wrong = [sentence for sentences in await asyncio.gather(*calls) for sentence in sentences]
            await ended(worker)
        assert wrong == []
        assert [fault for plan in WatchedPlan.plans for fault in plan.spared()] == []
