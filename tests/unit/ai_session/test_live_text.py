"""Partial transcripts: all that was said so far, to those who watch, and to nobody else."""

from datetime import UTC, datetime

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import StateChanged
from libs.contracts.live import MOST_CHARACTERS, PartialTranscript
from libs.contracts.offer import Offer
from services.ai_session.backends.port import (
    AudioEnded,
    CallerTextDelta,
    CallerTranscript,
    SpeechStarted,
    TextDelta,
    TextEnded,
)
from services.ai_session.live_text import LiveText
from tests.unit.ai_session.test_cores import read, reader
from tests.unit.ai_session.test_worker import a_call, agent

OFFER = Offer(
    call="C", org="acme", gw="gw-1", epoch=2, caller="1", callee="2", agent=AgentConfig(name="a", backend="scripted")
)
AT = datetime(2026, 11, 21, tzinfo=UTC)


def told(live, *events, watched=True):
    found = [live.note(event, AT, watched=watched) for event in events]
    return [(one.speaker, one.item, one.text) for one in found if one is not None]


def test_each_partial_is_all_that_was_said_in_the_turn_so_far():
    script = (
        SpeechStarted("i1"),
        CallerTextDelta("i1", "Zwanzig "),
        CallerTextDelta("i1", "Bögen"),
        CallerTranscript("i1", "Zwanzig Bögen."),
        TextDelta("r1", "i2", 0, "Gern,"),
        AudioEnded("r1", "i2", 0),
        TextDelta("r1", "i2", 0, " zwanzig"),
        TextEnded("r1", "i2", 0, "Gern, zwanzig Stück."),
    )
    assert told(LiveText(OFFER), *script) == [
        ("caller", "i1", ""),
        ("caller", "i1", "Zwanzig"),
        ("caller", "i1", "Zwanzig Bögen"),
        ("agent", "i2", "Gern,"),
        ("agent", "i2", "Gern, zwanzig"),
        ("agent", "i2", "Gern, zwanzig Stück."),
    ]


def test_words_that_the_provider_recognises_meanwhile_are_read():
    kind = "conversation.item.input_audio_transcription.delta"
    assert read(reader(), type=kind, item_id="i", delta="Zehn ") == [CallerTextDelta("i", "Zehn ")]
    assert read(reader(), type=kind, item_id="i", delta=None) == []


def test_nothing_is_told_while_nobody_watches_and_who_comes_late_reads_the_whole_sentence():
    live = LiveText(OFFER)
    assert told(live, TextDelta("r", "i", 0, "Guten "), CallerTextDelta("j", "Ja"), watched=False) == []
    assert told(live, TextDelta("r", "i", 0, "Tag")) == [("agent", "i", "Guten Tag")]


def test_a_turn_without_an_end_stays_bounded():
    live = LiveText(OFFER)
    (*_, last) = told(live, *[TextDelta("r", "i", 0, "x" * 900)] * 5)
    assert len(last[2]) == MOST_CHARACTERS


async def test_a_session_publishes_partials_while_it_is_watched_and_not_before(server):
    say = [["text:Guten Tag.", "tone:440:200"], ["text:Auf Wiedersehen.", "tone:440:200"]]
    async with a_call(server, agent(greeting="x", options={"say": say})) as (worker, leg):
        heard = await leg.nats.subscribe(subjects.live("*", leg.call, "*"))
        await leg.offer(worker.id)
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 1600)
        assert heard.pending_msgs == 0
        leg.state = leg.state.model_copy(update={"watched": True})
        changed = StateChanged(epoch=leg.epoch, state=leg.state)
        await leg.nats.request(subjects.control("default", leg.call, "agent"), changed.to_json(), timeout=2)
        heard_before = len(leg.heard)
        worker._sessions[leg.call].bridge.do(worker._sessions[leg.call].bridge.turn.say("Auf Wiedersehen.", 0.0), 0.0)
        await leg.run_until(lambda: len(leg.heard) >= heard_before + 1600)
        first = PartialTranscript.model_validate_json((await heard.next_msg(timeout=2)).data)
    assert (first.speaker, first.call, first.epoch) == ("agent", leg.call, leg.epoch)
    assert first.text.startswith("Auf")
