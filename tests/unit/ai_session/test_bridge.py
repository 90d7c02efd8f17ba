"""The bridge with its cores, joined to the gateway's half of the ledger."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import example, given, settings, strategies as st

from libs.call_leg.playout import Playout as GatewayPlayout
from libs.contracts.agent import AgentConfig
from libs.contracts.frame import AudioFrame, Codec, Flag, unpack
from libs.contracts.offer import Offer
from services.ai_session.actions import HangUp, RunTool, Why
from services.ai_session.backends.port import (
    AudioDelta,
    AudioEnded,
    Capabilities,
    Lost,
    ResponseEnded,
    ResponseStarted,
    SpeechStarted,
    TextDelta,
    TextEnded,
    ToolRequested,
    UsageCounted,
)
from services.ai_session.bridge import Bridge
from services.ai_session.history import GoOn
from services.ai_session.journal import Journal
from services.ai_session.phrases import Verbatim
from services.ai_session.turn import Phase

FRAME = 160


def pcm(samples, value=1):
    return np.full(samples, value, "<i2").tobytes()


class Line:
    """A bridge between a model that is a list of wishes, and a gateway one tick of 20 ms away."""

    def __init__(self, **config):
        self.events, self.sent, self.escalated, self.asked = [], [], [], []
        agent = AgentConfig(name="x", **config)
        offer = Offer(call="c", org="default", gw="g", epoch=1, caller="a", callee="b", agent=agent)
        self.bridge = Bridge(offer, Capabilities(), Journal(offer, self), self._send, self.escalated.append)
        self.bridge.attach(self)
        self.gateway = GatewayPlayout(2 * FRAME)
        self.gateway.begin_epoch(1)
        self.played = Counter()  # sample value -> samples that went to the ear
        self.now = 0.0
        self._on_the_way = []

    def put(self, event, **_):
        self.events.append(event)

    def _send(self, data):
        self.sent.append(unpack(data))
        self._on_the_way.append(self.sent[-1])

    def of_kind(self, kind):
        return [event for event in self.events if event.kind == kind]

    # the backend's side

    def feed(self, pcm):
        return True

    def tick(self, now):
        pass

    def start_response(self, instructions):
        self.asked.append(instructions)

    def cancel_response(self, response):
        self.asked.append(("cancel", response))

    def truncate(self, item, content_index, audio_end_ms):
        self.asked.append(("truncate", item, audio_end_ms))

    def delete_item(self, item):
        self.asked.append(("delete", item))

    # both

    def emit(self, *events):
        for event in events:
            self.bridge.on_event(event, self.now)

    def run(self, ticks=1):
        for _ in range(ticks):
            self.now += 0.02
            payload = self.gateway.pop()
            if payload is not None:
                values, counts = np.unique(np.frombuffer(payload, "<i2"), return_counts=True)
                self.played.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            flags = Flag.FLUSHED.value if self.gateway.flushed else 0
            up = AudioFrame(Codec.of_rate(8000).value, flags, 1, 0, 0, b"", self.gateway.played)
            self.bridge.uplink(up, self.now)
            self._deliver()

    def _deliver(self):
        frames, self._on_the_way = self._on_the_way, []
        for frame in frames:
            self.gateway.push(frame)

    def say(self, response="r", item="i", samples=800, text="Gern.", value=1):
        self.emit(
            ResponseStarted(response),
            AudioDelta(response, item, 0, pcm(samples, value)),
            AudioEnded(response, item, 0),
            TextEnded(response, item, 0, text),
            ResponseEnded(response, "completed", "", (item,)),
        )


def test_a_turn_is_played_announced_and_published():
    line = Line()
    line.say(samples=8000, text="Eins. Zwei.")
    line.run(60)
    assert [(e.text, e.from_sample) for e in line.of_kind("agent.text")] == [("Eins.", 0), ("Zwei.", 4363)]
    (turn,) = line.of_kind("agent.turn")
    assert (turn.text, turn.heard_text, turn.interrupted, turn.heard_ms) == ("Eins. Zwei.", "Eins. Zwei.", False, 1000)
    assert not line.bridge.playout.busy


def test_a_sentence_whose_text_comes_after_its_audio_is_announced_before_the_turn():
    line = Line()
    line.emit(ResponseStarted("r"), AudioDelta("r", "i", 0, pcm(1600)), AudioEnded("r", "i", 0))
    assert line.of_kind("agent.text") == []
    line.emit(TextDelta("r", "i", 0, "Ja. Gern"))
    assert [e.text for e in line.of_kind("agent.text")] == ["Ja."]
    line.emit(TextEnded("r", "i", 0, "Ja. Gern."), ResponseEnded("r", "completed", "", ("i",)))
    line.run(20)
    assert [e.text for e in line.of_kind("agent.text")] == ["Ja.", "Gern."]
    kinds = [e.kind for e in line.events]
    assert kinds.index("agent.turn") > max(n for n, kind in enumerate(kinds) if kind == "agent.text")


def test_of_two_barge_ins_before_an_acknowledgement_the_second_also_silences():
    line = Line()
    line.emit(ResponseStarted("r"), AudioDelta("r", "i", 0, pcm(8000, 1)))
    line.run(5)
    line.emit(SpeechStarted("c"), ResponseEnded("r", "cancelled", "", ("i",)))
    line.emit(ResponseStarted("s"), AudioDelta("s", "j", 0, pcm(8000, 2)))
    line.emit(SpeechStarted("d"), ResponseEnded("s", "cancelled", "", ("j",)))
    line.run(20)
    assert line.played[2] == 0
    assert line.bridge.turn.phase is Phase.LISTENING
    assert line.asked == [("truncate", "i", 100), ("delete", "j")]
    assert [(e.item, e.heard_ms) for e in line.of_kind("agent.turn")] == [("i", 100), ("j", 0)]


def test_a_delta_after_the_end_of_an_interrupted_response_does_not_open_the_ledger_again():
    line = Line()
    line.emit(ResponseStarted("r"), AudioDelta("r", "i", 0, pcm(8000)))
    line.run(5)
    line.emit(SpeechStarted("c"), ResponseEnded("r", "cancelled", "", ("i",)))
    line.run(3)
    frames = len([frame for frame in line.sent if frame.payload])
    line.emit(AudioDelta("r", "i", 0, pcm(1600)), TextDelta("r", "i", 0, "Zu spät."))
    line.run(5)
    assert len([frame for frame in line.sent if frame.payload]) == frames
    assert (line.bridge.playout.busy, line.bridge.turn.phase) == (False, Phase.LISTENING)
    assert line.bridge.counters["delta_of_dead_response"] == 1


def test_the_end_of_an_interrupted_response_does_not_end_the_one_after_it():
    line = Line()
    line.emit(ResponseStarted("r"), AudioDelta("r", "i", 0, pcm(8000)))
    line.run(3)
    line.emit(SpeechStarted("c"), ResponseStarted("s"), AudioDelta("s", "j", 0, pcm(200, 2)))
    line.run(3)
    line.emit(ResponseEnded("r", "cancelled", "", ("i",)))
    line.run(3)
    line.emit(AudioDelta("s", "j", 0, pcm(120, 2)), ResponseEnded("s", "completed", "", ("j",)))
    line.run(10)
    assert [frame.flags & Flag.END_OF_RESPONSE for frame in line.sent].count(Flag.END_OF_RESPONSE) == 1
    assert line.played[2] == 320
    assert line.played[0] == 0  # no padding in the middle


def test_the_claim_is_repeated_when_the_gateway_begins_to_listen():
    line = Line()
    line.bridge.claim(0.0)
    line.run(3)
    assert [len(frame.payload) for frame in line.sent] == [0, 0]


def test_a_call_that_has_spent_its_budget_says_goodbye():
    line = Line(budget={"per_call_usd": 0.1}, goodbye="Tschüss.")
    line.emit(UsageCounted("response", "m", "1", cost_usd=0.06))
    assert line.asked == []
    line.emit(UsageCounted("response", "m", "2", cost_usd=0.06))
    assert line.asked[0] == Verbatim("Tschüss.")
    line.emit(ResponseStarted("bye", asked=True), AudioDelta("bye", "b", 0, pcm(800)))
    line.emit(ResponseEnded("bye", "completed", "", ("b",)))
    line.run(10)
    assert line.escalated == [HangUp(Why.BUDGET)]


def test_a_long_answer_ends_for_the_goodbye_and_the_goodbye_is_heard():
    line = Line(goodbye="Tschüss.", limits={"max_duration_s": 1})
    line.bridge.do(line.bridge.turn.begin(GoOn.LISTEN, 0.0, 0.0), 0.0)
    line.emit(ResponseStarted("r"), AudioDelta("r", "i", 0, pcm(8000 * 30)))
    line.emit(ResponseEnded("r", "completed", "", ("i",)))
    for _ in range(100):
        line.run(5)
        line.bridge.tick(line.now)
        if line.asked and not line.played[2]:
            line.emit(ResponseStarted("bye", asked=True), AudioDelta("bye", "b", 0, pcm(8000, 2)))
            line.emit(ResponseEnded("bye", "completed", "", ("b",)))
            line.run(8)
        if line.escalated:
            break
    assert line.escalated == [HangUp(Why.MAX_DURATION)]
    assert line.played[2] == 8000
    assert 6.0 < line.now < 7.8


def test_the_last_tool_of_an_agent_that_hung_up_ends_the_call():
    line = Line()
    line.emit(ResponseStarted("r"), AudioDelta("r", "i", 0, pcm(320)), ToolRequested("r", "t", "hang_up", "{}"))
    line.emit(ResponseEnded("r", "completed"))
    line.run(10)
    line.bridge.do(line.bridge.turn.end_politely(Why.AGENT, line.now), line.now)
    assert line.escalated == [RunTool("t", "hang_up", "{}")]
    line.bridge.tool_done(line.now)
    assert line.escalated[1:] == [HangUp(Why.AGENT)]


def test_what_was_received_of_a_lost_connection_is_played_to_its_end():
    line = Line()
    line.emit(ResponseStarted("r"), AudioDelta("r", "i", 0, pcm(200)), Lost("closed", "gone"))
    line.run(10)
    (turn,) = line.of_kind("agent.turn")
    assert (turn.heard_ms, turn.interrupted) == (25, True)
    assert line.bridge.drained.is_set()


def test_a_position_that_stands_still_is_not_heard():
    line = Line()
    line.say(samples=8000, text="Das sind zehn Bögen zu vier Euro.")
    line.run(2)
    position = line.gateway.played
    for _ in range(160):
        line.bridge.uplink(AudioFrame(Codec.of_rate(8000).value, 0, 1, 0, 0, b"", position), line.now)
    (turn,) = line.of_kind("agent.turn")
    assert turn.interrupted
    assert turn.heard_text != turn.text


steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.just(0), st.just(0)),
        st.tuples(st.just("delta"), st.integers(0, 2), st.integers(1, 3000)),
        st.tuples(st.just("delta"), st.integers(0, 2), st.integers(1, 3000)),
        st.tuples(st.just("late"), st.integers(0, 5), st.integers(1, 500)),
        st.tuples(st.just("part_ends"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("end"), st.sampled_from(["completed", "cancelled", "failed", "incomplete"]), st.just(0)),
        st.tuples(st.just("speech"), st.just(0), st.just(0)),
        st.tuples(st.just("run"), st.integers(1, 25), st.just(0)),
    ),
    max_size=50,
)


class Model:
    """A server that speaks by a script: one response at a time, items of its own, deltas too late."""

    def __init__(self, line):
        self.line = line
        self.number = 0
        self.alive = False  # a response is under way
        self.dead = False  # and was interrupted
        self.values = {}  # item -> value of its samples
        self.received = Counter()  # item -> samples that were said in time
        self.items = {}  # response -> its items

    def item(self, response, index):
        item = f"i{response}-{index}"
        self.values.setdefault(item, len(self.values) + 1)
        return item

    def do(self, verb, a, b):
        name, line = f"r{self.number}", self.line
        match verb:
            case "begin" if not self.alive:
                self.number += 1
                self.alive, self.dead = True, False
                line.emit(ResponseStarted(f"r{self.number}"))
            case "delta" if self.alive:
                item = self.item(self.number, a)
                self.items.setdefault(name, []).append(item)
                if not self.dead:
                    self.received[item] += b
                line.emit(AudioDelta(name, item, 0, pcm(b, self.values[item])), TextDelta(name, item, 0, "Wort. "))
            case "late":
                old = self.number - a
                if old > 0 and not (old == self.number and self.alive):
                    item = self.item(old, 0)
                    line.emit(AudioDelta(f"r{old}", item, 0, pcm(b, self.values[item])))
            case "part_ends" if self.alive:
                line.emit(AudioEnded(name, self.item(self.number, a), 0))
            case "end" if self.alive:
                self.alive = False
                items = tuple(dict.fromkeys(self.items.get(name, ())))
                line.emit(ResponseEnded(name, "cancelled" if self.dead else a, "", items))
            case "speech":
                self.dead = True
                line.emit(SpeechStarted("c"))
            case "run":
                line.run(a)


def part_ended_early(script):
    """Whether a script sends audio for a part that it had ended, which no server does."""
    ended = set()
    for verb, a, _ in script:
        if verb == "begin":
            ended.clear()
        elif verb == "part_ends":
            ended.add(a)
        elif verb == "delta" and a in ended:
            return True
    return False


@settings(max_examples=400, deadline=None)
@example([("begin", 0, 0), ("delta", 0, 1), ("end", "completed", 0), ("begin", 0, 0), ("run", 2, 0)])
@given(steps.filter(lambda script: not part_ended_early(script)))
def test_whatever_happens_the_model_is_told_what_the_ear_got_and_silence_follows(script):
    line = Line()
    model = Model(line)
    silenced, looked_at = 0, 0  # samples up to this value must not go out any more
    for verb, a, b in [*script, ("end", "completed", 0), ("run", 1, 0)]:
        model.do(verb, a, b)
        for frame in line.sent[looked_at:]:
            values = np.frombuffer(frame.payload, "<i2")
            assert not ((values > 0) & (values <= silenced)).any()
        looked_at = len(line.sent)
        if verb == "speech":
            silenced = len(model.values)
    line.run(20 + sum(model.received.values()) // FRAME)
    turns = line.of_kind("agent.turn")
    assert Counter(turn.item for turn in turns) == Counter({item: 1 for item, n in model.received.items() if n})
    for turn in turns:
        assert turn.heard_ms <= turn.audio_ms == model.received[turn.item] / 8
        assert turn.heard_ms == line.played[model.values[turn.item]] / 8  # to the sample
    for what, item, *rest in (wish for wish in line.asked if isinstance(wish, tuple)):
        heard_ms = line.played[model.values[item]] // 8
        if what == "truncate":
            assert 0 < rest[0] == heard_ms <= model.received[item] / 8
        elif what == "delete":
            assert heard_ms == 0
    assert not line.bridge.playout.busy
    assert line.bridge.turn.phase is Phase.LISTENING
    assert line.bridge.turn.spoken.remembered_items == 0
