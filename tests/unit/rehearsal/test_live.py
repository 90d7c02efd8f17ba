"""The Live API's core, driven by a script; every event is checked against the openai package."""

import base64
import itertools
from random import Random

import pytest

from libs.audio.g711 import Law
from libs.audio.level import dbfs
from services.rehearsal.faults import Fault, FaultPlan
from services.rehearsal.live import LiveOptions, LiveSession
from services.rehearsal.live_validation import validate_live_server_event
from services.rehearsal.outputs import Close
from services.rehearsal.responses import Pace
from services.rehearsal.scenario import Scenario, ScenarioSet
from services.rehearsal.speech import babble
from tests.unit.rehearsal.driver import BabbleVoice, error_of, kinds, of, one

TALK = Scenario.model_validate(
    {
        "name": "talk",
        "greeting": "Guten Tag was kann ich für Sie tun",
        "turns": [
            {"caller": "Was kostet ein Bogen?", "steps": [{"calls": [{"tool": "price", "arguments": {"n": 1}}]}],
             "answer": "Er kostet {{ price.eur }} Euro."},
        ],
    }
)  # fmt: skip
RESPONSES = {
    "type": "responses",
    "responses": {"model": "gpt-5.6-luna", "tools": [{"type": "function", "name": "price", "parameters": {}}]},
}
PCMU = {"type": "audio/pcmu", "rate": 8000}


class Live:
    def __init__(self, *, faults=(), started=True, **session):
        numbers = itertools.count(1)
        self.now = 0.0
        self.frames = []
        self.core = LiveSession(
            LiveOptions("live_1", expires_at=1, limit_s=60, pace=Pace(first_byte_ms=100, tool_call_ms=20)),
            scenarios=ScenarioSet([TALK], "talk"),
            voice=BabbleVoice(),
            new_id=lambda prefix: f"{prefix}_{next(numbers)}",
            rng=Random(7),
            faults=FaultPlan(Fault.model_validate(f) for f in faults),
            check=validate_live_server_event,
        )
        assert self.core.start() == []
        if started:
            one(self.start(**session), "session.started")

    def start(self, **session):
        return self.send("session.start", session={"model": "gpt-live-1", "audio": {"format": PCMU}, **session})

    def send(self, kind, **fields):
        found = self.core.receive({"type": kind, **fields}, self.now)
        self.frames += found
        return found

    def comment(self, text):
        return self.send("session.commentary.append", content=text, delegation_id=None)

    def run(self, seconds, loud=False):
        """Time passes, and the caller speaks or is silent."""
        found = []
        pcm = (babble("a") * 20)[:320] if loud else bytes(320)
        audio = base64.b64encode(Law.PCMU.encode(pcm)).decode()
        for _ in range(round(seconds * 50)):
            found += self.core.receive({"type": "session.input_audio.append", "audio": audio}, self.now)
            self.now += 0.02
            while (due := self.core.deadline()) is not None and due <= self.now:
                found += self.core.expire(due)
        self.frames += found
        return found


def sound(frames):
    return b"".join(
        Law.PCMU.decode(base64.b64decode(frame["delta"])) for frame in of(frames, "session.output_audio.delta")
    )


def text(frames, side="output"):
    return "".join(frame["delta"] for frame in of(frames, f"session.{side}_transcript.delta"))


def test_the_stream_runs_in_real_time_and_is_silent_when_nobody_speaks():
    live = Live()
    frames = live.run(2.0)
    pcm = sound(frames)
    assert 1.9 <= len(pcm) / 16000 <= 2.0
    assert dbfs(pcm) < -80
    assert all(20 <= len(base64.b64decode(f["delta"])) / 8 <= 100 for f in of(frames, "session.output_audio.delta"))


def test_commentary_is_acknowledged_and_spoken_with_its_transcript():
    live = Live()
    frames = live.comment("Say exactly the following, word for word:\nGuten Tag und willkommen bei uns")
    assert one(frames, "session.commentary.appended")["start_ms"] == 0
    frames = live.run(2.0)
    assert text(frames) == "Guten Tag und willkommen bei uns"
    assert dbfs(sound(frames)) > -30
    deltas = of(frames, "session.output_transcript.delta")
    assert all(earlier["end_ms"] <= later["start_ms"] + 1 for earlier, later in itertools.pairwise(deltas))


def test_the_model_falls_silent_by_itself_when_the_caller_speaks():
    live = Live()
    live.comment("word for word: " + "eins zwei drei vier fünf sechs sieben acht neun zehn " * 2)
    live.run(0.6)
    live.run(0.3, loud=True)
    assert dbfs(sound(live.run(0.3, loud=True))) < -80
    said = next(item for item in live.core.truth.items() if item.is_assistant_message)
    assert said.is_unfinished
    assert said.text == text(live.frames).strip()
    assert 300 < said.sent_ms < 1100


def test_the_callers_turn_is_transcribed_and_its_tools_are_delegated():
    live = Live(delegation=RESPONSES)
    live.run(0.6, loud=True)
    frames = live.run(1.2)
    assert text(frames, "input") == "Was kostet ein Bogen?"
    created = one(frames, "session.delegation.created")["delegation"]
    nested = [frame["event"] for frame in of(frames, "response.event")]
    assert [event["type"] for event in nested] == [
        "response.created", "response.output_item.done", "response.completed"
    ]  # fmt: skip
    assert {frame["delegation_id"] for frame in of(frames, "response.event")} == {created["id"]}
    call = nested[1]["item"]
    assert (call["name"], call["arguments"]) == ("price", '{"n": 1}')
    assert nested[2]["response"]["usage"]["input_tokens"] > 0
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"eur": 3}'}
    assert live.send("response.item.create", item=output) == []
    live.send("response.create")
    assert text(live.run(1.5)) == "Er kostet 3 Euro."
    (recorded,) = live.core.truth.as_json()["tool_calls"]
    assert recorded["output"] == {"eur": 3}


def test_a_client_delegation_is_answered_by_commentary():
    live = Live(delegation={"type": "client"})
    live.run(0.6, loud=True)
    delegation = one(live.run(1.2), "session.delegation.created")["delegation"]
    assert delegation["target"] == "client"
    live.send("session.commentary.append", content="Er kostet vier Euro.", delegation_id=delegation["id"])
    assert text(live.run(1.0)) == "Er kostet vier Euro."
    error = error_of(live.send("session.commentary.append", content="Noch etwas", delegation_id=delegation["id"]))
    assert error["param"] == "delegation_id"


def test_a_muted_session_hears_nothing():
    live = Live()
    one(live.send("session.input_audio.mute"), "session.input_audio.muted")
    live.run(0.6, loud=True)
    live.run(1.0)
    assert live.core.truth.turns == []
    one(live.send("session.input_audio.unmute"), "session.input_audio.unmuted")
    live.run(0.6, loud=True)
    live.run(1.0)
    assert len(live.core.truth.turns) == 1


def test_history_counts_as_said_and_replayed_calls_take_their_place():
    history = [
        {"role": "user", "content": [{"type": "input_text", "text": "Was kostet ein Bogen?"}]},
        {"role": "developer", "content": [{"type": "input_text", "text": "(price was called: call_9)"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Er kostet 3 Euro."}]},
    ]
    live = Live(delegation=RESPONSES, input=history)
    call = {"type": "function_call", "call_id": "call_9", "name": "price", "arguments": "{}"}
    assert live.send("response.item.create", item=call) == []
    result = {"type": "function_call_output", "call_id": "call_9", "output": '{"eur": 3}'}
    assert live.send("response.item.create", item=result) == []
    items = live.core.truth.conversation.items
    assert [item.kind for item in items] == [
        "message", "message", "function_call", "function_call_output", "message"
    ]  # fmt: skip
    assert live.core.truth.conversation.turn == 1


def test_usage_is_cumulative_and_the_last_one_comes_with_the_end():
    live = Live()
    seconds = [frame["usage"]["seconds"] for frame in of(live.run(11.0), "session.usage.updated")]
    assert len(seconds) == 2
    assert seconds[0] < seconds[1]
    frames = live.send("session.close")
    closed = one(frames, "session.closed")
    assert closed["reason"] == "close_requested"
    assert closed["usage"]["seconds"] == pytest.approx(11.0, abs=0.2)
    assert frames[-1] == Close(1000)


def test_a_session_expires():
    live = Live()
    assert one(live.run(61.0), "session.closed")["reason"] == "expired"
    assert live.core.closed


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"audio": {}}, "session.audio.format"),
        ({"audio": {"format": {"type": "audio/pcmu"}}}, "session.audio.format.rate"),
        ({"audio": {"format": {"type": "audio/pcm", "rate": 8000}}}, "session.audio.format.rate"),
        ({"audio": {"format": {"type": "audio/pcma", "rate": 16000}}}, "session.audio.format.rate"),
        ({"speed": 1.2}, "session.speed"),
        ({"audio": {"format": PCMU, "input": {}}}, "session.audio.input"),
        ({"instructions": "x" * 70_000}, "session.instructions"),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}] * 129}, "session.input"),
    ],
)
def test_what_the_api_refuses_at_the_start(session, param):
    live = Live(started=False)
    frames = live.send("session.start", session={"model": "gpt-live-1", "audio": {"format": PCMU}, **session})
    assert error_of(frames)["param"] == param
    assert kinds(frames) == ["error"]


def test_only_delegation_and_triggers_can_be_updated():
    live = Live(delegation=RESPONSES)
    frames = live.send("session.update", session={"instructions": "Sei kurz."})
    assert error_of(frames)["code"] == "unknown_parameter"
    frames = live.send("session.update", session={"delegation": {"type": "client"}})
    assert error_of(frames)["param"] == "session.delegation.type"
    changed = {"type": "responses", "responses": {"model": "gpt-5.6-terra"}}
    updated = one(live.send("session.update", session={"delegation": changed}), "session.updated")
    assert updated["session"]["delegation"]["responses"]["model"] == "gpt-5.6-terra"
    assert len(updated["session"]["delegation"]["responses"]["tools"]) == 1


def test_nothing_is_taken_before_the_start_and_no_second_start():
    live = Live(started=False)
    assert error_of(live.comment("Hallo"))["code"] == "session_not_started"
    one(live.start(), "session.started")
    assert error_of(live.start())["code"] == "session_already_started"


@pytest.mark.parametrize(
    "event",
    [
        {"content": "x" * 2100, "delegation_id": None},
        {"content": "Hallo"},
        {"content": "Hallo", "delegation_id": None, "urgent": True},
    ],
)
def test_context_is_limited_and_complete(event):
    assert error_of(Live().send("session.commentary.append", **event))["type"] == "invalid_request_error"


def test_what_a_stall_holds_back_comes_at_once():
    live = Live(faults=[{"kind": "stall", "on": "live", "after_deltas": 5, "duration_ms": 1000}])
    live.run(0.9)
    before = len(sound(live.frames))
    live.run(1.0)
    assert before / 16000 < 0.5
    assert len(sound(live.frames)) / 16000 == pytest.approx(1.9, abs=0.15)
