"""Claims, responses, history, sentences, events on the wire, costs, tools: the small cores."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.audio.tone import tone
from libs.contracts.events import AgentText, AgentTurn, CallerSpoke, CallerTurn, DtmfReceived, ToolCalled, ToolReturned
from services.ai_session.backends.port import (
    AudioDelta,
    CallerTranscript,
    ResponseEnded,
    TextEnded,
    ToolRequested,
    Trouble,
    UsageCounted,
)
from services.ai_session.backends.realtime_events import ErrorReceived, RealtimeEvents, SessionUpdated
from services.ai_session.backends.responses import ALREADY_ACTIVE, Create, Refusal, Responses
from services.ai_session.backends.wire_audio import WireAudio
from services.ai_session.claims import Accepted, Claims, Refused
from services.ai_session.costs import ModelsFileError, load, tokens_of
from services.ai_session.history import RESULT_UNKNOWN, CalledTool, GoOn, Said, ToolOutput, rebuild
from services.ai_session.latency import LatencyProbe
from services.ai_session.settings import BUILT_IN_MODELS
from services.ai_session.speech_text import SpeechText
from services.ai_session.tools import as_prompt, descriptions_in, parse_arguments

MODELS = load(BUILT_IN_MODELS)


# -- claims ---------------------------------------------------------------------------------------------


def test_an_offer_is_taken_once_per_epoch_and_an_older_one_never():
    claims = Claims(2)
    assert claims.offer("a", 2) == Accepted()
    assert claims.offer("a", 2) == Refused("stale_epoch")
    assert claims.offer("a", 1) == Refused("stale_epoch")
    assert claims.offer("a", 3) == Accepted(replaces=2)


def test_a_full_or_draining_worker_refuses():
    claims = Claims(1)
    claims.offer("a", 1)
    assert claims.offer("b", 1) == Refused("at_capacity")
    assert claims.offer("a", 2) == Accepted(1)  # the same call needs no other slot
    claims.draining = True
    assert claims.offer("a", 3) == Refused("draining")


def test_a_release_ends_its_epoch_and_older_ones_and_outruns_its_offer():
    claims = Claims(2)
    claims.offer("a", 2)
    assert not claims.release("a", 1)
    assert claims.release("a", 2)
    assert claims.count == 0
    claims.release("b", 4)
    assert claims.offer("b", 4) == Refused("stale_epoch")
    assert claims.offer("b", 5) == Accepted()


def test_the_end_of_a_replaced_session_does_not_free_its_successor():
    claims = Claims(2)
    claims.offer("a", 1)
    claims.offer("a", 2)
    claims.ended("a", 1)
    assert claims.calls == ("a",)


# -- responses --------------------------------------------------------------------------------------------


def test_a_second_request_waits_for_the_first_response():
    responses = Responses()
    assert responses.ask("hello", 0) == Create("create-1", "hello")
    assert responses.ask("again", 0) is None
    assert responses.created("r1", {"origin": "callbus"})
    assert responses.done("r1", 1) == Create("create-2", "again")


def test_outputs_of_parallel_tools_lead_to_one_response():
    responses = Responses()
    responses.created("r1", None)
    responses.tool_called("r1", "a")
    responses.tool_called("r1", "b")
    responses.done("r1", 1)
    assert responses.tool_output("b", 2) is None
    assert responses.tool_output("a", 2) == Create("create-1", None)


def test_outputs_that_arrive_under_a_response_are_answered_after_it():
    responses = Responses()
    responses.created("r1", None)
    responses.tool_called("r1", "a")
    responses.done("r1", 1)
    responses.created("vad", None)
    assert responses.tool_output("a", 2) is None
    assert responses.done("vad", 3) == Create("create-1", None)


def test_no_response_is_asked_for_when_the_turn_detection_made_one_that_saw_the_outputs():
    responses = Responses()
    responses.created("r1", None)
    responses.tool_called("r1", "a")
    responses.done("r1", 1)
    responses.caller_speaks(True, 1.5)
    assert responses.tool_output("a", 2) is None  # the caller speaks: their turn will be answered
    responses.output_seen("a")
    responses.caller_speaks(False, 3)
    assert responses.tick(3.1) is None
    assert not responses.created("vad", None)
    assert responses.done("vad", 4) is None


def test_a_turn_detection_that_does_not_answer_leaves_the_request_to_us():
    responses = Responses()
    responses.created("r1", None)
    responses.tool_called("r1", "a")
    responses.done("r1", 1)
    responses.caller_speaks(True, 1.5)
    responses.tool_output("a", 2)
    responses.caller_speaks(False, 3)
    assert responses.tick(4.1) == Create("create-1", None)


def test_a_refused_request_is_repeated_once_after_the_other_response():
    responses = Responses()
    responses.ask("bye", 0)
    assert not responses.created("vad", {})
    assert responses.refused(ALREADY_ACTIVE, "create-1", 0.1) is Refusal.SETTLED
    assert responses.done("vad", 2) == Create("create-2", "bye")
    assert responses.refused(ALREADY_ACTIVE, "create-2", 2.1) is Refusal.FAILED
    assert responses.tick(9) is None


def test_another_error_of_a_request_is_a_failed_response():
    responses = Responses()
    responses.ask("bye", 0)
    assert responses.refused("invalid_value", "create-1", 0.1) is Refusal.FAILED
    assert not responses.is_waiting


# -- history ----------------------------------------------------------------------------------------------


def event(kind, number, epoch=1, **fields):
    return kind(event_id=str(number), org="o", call="c", at=datetime(2026, 1, 1, tzinfo=UTC), epoch=epoch, **fields)


def agent_turn(number, item, heard, interrupted=False, epoch=1):
    return event(
        AgentTurn,
        number,
        epoch,
        item=item,
        response="r",
        text="all",
        heard_text=heard,
        interrupted=interrupted,
        audio_ms=1,
        heard_ms=1,
    )


def test_only_sentences_that_began_before_the_played_position_were_heard():
    past = [
        event(CallerTurn, 1, item="c", text="Hallo"),
        event(AgentText, 2, item="a", from_sample=0, text="Eins."),
        event(AgentText, 3, item="a", from_sample=8000, text="Zwei."),
        event(AgentText, 4, item="a", from_sample=16000, text="Drei."),
    ]
    rebuilt = rebuild(past, {1: 9000})
    assert rebuilt.items == (Said("user", "Hallo"), Said("assistant", "Eins. Zwei."))
    assert rebuilt.go_on is GoOn.CONTINUE


def test_a_finished_turn_wins_over_its_sentences():
    past = [event(AgentText, 1, item="a", from_sample=0, text="Eins."), agent_turn(2, "a", "Eins. Zwei.")]
    rebuilt = rebuild(past, {})
    assert rebuilt.items == (Said("assistant", "Eins. Zwei."),)
    assert rebuilt.go_on is GoOn.LISTEN


@pytest.mark.parametrize(
    ("last", "go_on"),
    [
        ([], GoOn.GREET),
        ([event(CallerTurn, 1, item="c", text="Hallo")], GoOn.ANSWER),
        ([event(CallerSpoke, 1, item="c")], GoOn.ASK_TO_REPEAT),
        ([event(CallerTurn, 1, item="c", text="", failed=True)], GoOn.ASK_TO_REPEAT),
        ([event(CallerSpoke, 1, item="c"), event(CallerTurn, 2, item="c", text="Ja")], GoOn.ANSWER),
        ([event(AgentText, 1, item="a", from_sample=0, text="Eins.")], GoOn.GREET),  # nothing of it was heard
        ([agent_turn(1, "a", "Eins", interrupted=True)], GoOn.CONTINUE),
        ([event(ToolReturned, 1, tool_call_id="t", name="n", ok=True, took_ms=1)], GoOn.ANSWER),
    ],
)
def test_the_last_thing_that_happened_decides_how_to_go_on(last, go_on):
    assert rebuild(last, {}).go_on is go_on


def test_a_tool_whose_result_was_lost_is_marked_as_unknown():
    past = [
        event(ToolCalled, 1, tool_call_id="t", name="order_add", arguments={"n": 1}),
        event(ToolCalled, 2, tool_call_id="u", name="order_show", arguments={}),
        event(ToolReturned, 3, tool_call_id="u", name="order_show", ok=True, output={"lines": []}, took_ms=1),
    ]
    assert rebuild(past, {}).items == (
        CalledTool("t", "order_add", '{"n": 1}'),
        ToolOutput("t", RESULT_UNKNOWN),
        CalledTool("u", "order_show", "{}"),
        ToolOutput("u", '{"lines": []}'),
    )


def test_keys_become_one_note_per_group_and_wait_for_an_answer():
    past = [
        event(CallerTurn, 1, item="c", text="Meine Kundennummer?"),
        *(event(DtmfReceived, n, digit=digit) for n, digit in enumerate("471", 2)),
        agent_turn(5, "a", "Danke. Und die letzte?"),
        event(DtmfReceived, 6, digit="1"),
    ]
    rebuilt = rebuild(past, {})
    assert [(item.role, item.text) for item in rebuilt.items] == [
        ("user", "Meine Kundennummer?"),
        ("user", "(The caller pressed these keys on the phone: 471)"),
        ("assistant", "Danke. Und die letzte?"),
        ("user", "(The caller pressed these keys on the phone: 1)"),
    ]
    assert rebuilt.go_on is GoOn.ANSWER


def test_the_same_item_name_in_two_epochs_is_two_items():
    past = [
        event(CallerTurn, 1, item="c", text="A"),
        event(CallerTurn, 2, 2, item="c", text="B"),
    ]
    assert [item.text for item in rebuild(past, {}).items] == ["A", "B"]


# -- sentences ---------------------------------------------------------------------------------------------


def test_sentences_are_placed_by_proportion_when_text_and_audio_are_complete():
    text = SpeechText(8000)
    key = ("a", 0)
    text.end(key, "Zehn Zeichen. Und der Rest.")
    found = text.due(key, 160, 27000, True)
    assert [(s.text, s.offset) for s in found] == [("Zehn Zeichen.", 0)]
    assert text.due(key, 13999, 27000, True) == []
    assert [(s.text, s.offset) for s in text.due(key, 14001, 27000, True)] == [("Und der Rest.", 14000)]


def test_a_sentence_is_told_only_when_it_is_complete():
    text = SpeechText(8000)
    key = ("a", 0)
    text.add(key, "Guten T")
    assert text.due(key, 160, 160, False) == []
    text.add(key, "ag. Wie")
    assert [s.text for s in text.due(key, 160, 160, False)] == ["Guten Tag."]


@pytest.mark.parametrize(
    "said",
    [
        ["Wir haben z. B. Bögen mit 22.5 mm.", "Das sind ca. 20 Stück, Art. Nr. 4711.", "Sonst noch was?"],
        ["Das Büro ist im 1. Stock, d. h. oben.", "Fragen Sie Dr. Weiß!", "Er ist da:", "immer."],
        ["Nr. 4711 kostet inkl. Steuer 3 Euro.", "Diese Art.", "Und diese?"],
        ["Approx. 5 pieces, e. g. item no. 12, for Mrs. Hall.", "No.", "Thanks."],
        ["Bögen usw. und so weiter.", 'Er sagte "Ja."', "Und dann?"],
    ],
)
def test_abbreviations_and_ordinals_end_no_sentence_however_the_text_arrives(said):
    whole = " ".join(said)
    for step in (1, 3, len(whole)):
        text, key, found = SpeechText(8000), ("a", 0), []
        for at in range(0, len(whole), step):
            text.add(key, whole[at : at + step])
            found += text.due(key, 10**9, 80000, False)
        text.end(key, whole)
        found += text.due(key, 10**9, 80000, True)
        assert [sentence.text for sentence in found] == said


def test_the_speaking_rate_is_learnt_from_finished_parts():
    text = SpeechText(8000)
    slow = "Acht Zeichen in einer Sekunde ge" * 2  # 64 characters in 8 s
    text.end(("a", 0), slow)
    text.learn(("a", 0), 64000)
    text.end(("b", 0), "Zehn und. Noch einer.")
    first, second = text.due(("b", 0), 10**9, 0, False)
    assert first.offset == 0
    assert second.offset == int(10 / 11.5 * 8000)  # 15 characters per second, half way to 8


def test_a_short_or_unknown_part_teaches_nothing():
    text = SpeechText(8000)
    text.end(("a", 0), "Ja.")
    text.learn(("a", 0), 64000)
    text.learn(("unknown", 0), 64000)
    text.end(("b", 0), "Zehn und. Noch einer.")
    assert text.due(("b", 0), 10**9, 0, False)[1].offset == int(10 / 15 * 8000)


def test_heard_text_is_cut_at_a_whole_word():
    text = SpeechText(8000)
    key = ("a", 0)
    text.end(key, "Eins zwei drei vier.")
    assert text.heard_text(key, 4000, 8000, True) == "Eins zwei"
    assert text.heard_text(key, 8000, 8000, True) == "Eins zwei drei vier."
    assert text.heard_text(key, 0, 8000, True) == ""


# -- latency -----------------------------------------------------------------------------------------------


def test_only_the_first_response_of_a_turn_is_measured():
    probe = LatencyProbe()
    probe.caller_stopped(1.0)
    probe.first_delta("r", 1.5)
    probe.first_delta("s", 2.5)  # before anything of the first one was heard
    probe.first_frame(1.5)
    assert probe.heard("s", 2.6) is None
    measured = probe.heard("r", 2.7)
    assert (measured.response, measured.stopped_to_first_delta_ms) == ("r", 500)
    assert probe.heard("r", 2.8) is None


def test_parallel_tools_take_the_time_that_passes_not_the_sum():
    probe = LatencyProbe()
    probe.caller_stopped(1.0)
    probe.tools_began(1.5)
    probe.tools_ended(2.5)
    probe.tools_began(3.0)
    probe.tools_ended(3.25)
    assert probe.tools_ms == 1250


def test_a_tool_that_runs_on_into_the_next_turn_counts_from_its_beginning():
    probe = LatencyProbe()
    probe.caller_stopped(1.0)
    probe.tools_began(1.5)
    probe.caller_stopped(3.0)
    probe.tools_ended(3.5)
    assert probe.tools_ms == 500


# -- wire events -------------------------------------------------------------------------------------------


def reader(rate_hz=8000, audio_format="audio/pcmu"):
    return RealtimeEvents(MODELS, "gpt-realtime-2.1", "gpt-transcribe", WireAudio(audio_format, rate_hz).decode)


def read(events, **fields):
    return events.read(json.dumps(fields).encode())


PART = {"response_id": "r", "item_id": "i", "output_index": 0, "content_index": 0}


def test_an_audio_delta_becomes_pcm_of_the_call():
    delta = b64encode(b"\xff" * 160).decode()
    (event,) = read(reader(), type="response.output_audio.delta", event_id="e", delta=delta, **PART)
    assert event == AudioDelta("r", "i", 0, bytes(320))


def test_half_a_sample_waits_for_the_next_delta():
    audio = WireAudio("audio/pcm", 16000)
    sound = tone(440, 100, 24000)
    whole = WireAudio("audio/pcm", 16000).decode(sound)
    assert audio.decode(sound[:1001]) + audio.decode(sound[1001:]) == whole


def test_tools_run_only_for_completed_responses():
    call = {"type": "function_call", "id": "x", "call_id": "t", "name": "n", "arguments": "{}"}
    message = {"type": "message", "id": "m"}
    response = {"id": "r", "status": "completed", "output": [message, call], "usage": None}
    assert read(reader(), type="response.done", response=response) == [
        ToolRequested("r", "t", "n", "{}"),
        ResponseEnded("r", "completed", "", ("m",)),
    ]
    response["status"] = "cancelled"
    response["status_details"] = {"type": "cancelled", "reason": "turn_detected"}
    assert read(reader(), type="response.done", response=response) == [
        ResponseEnded("r", "cancelled", "turn_detected", ("m",))
    ]


def test_transcripts_errors_and_formats_are_read():
    kind = "conversation.item.input_audio_transcription"
    usage = {"type": "duration", "seconds": 60}
    said, counted = read(reader(), type=f"{kind}.completed", item_id="i", transcript=" Hallo ", usage=usage)
    assert said == CallerTranscript("i", "Hallo")
    assert counted.cost_usd == pytest.approx(0.0045)
    failed = read(reader(), type=f"{kind}.failed", item_id="i", error={"message": "noise"})
    assert failed == [CallerTranscript("i", "", failed=True), Trouble("transcription_failed", "noise")]
    error = {"type": "invalid_request_error", "code": None, "message": "no", "param": None, "event_id": None}
    assert read(reader(), type="error", error=error) == [
        ErrorReceived("invalid_request_error", "no", "", None, "invalid_request_error")
    ]
    session = {"audio": {"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcma"}}}}
    assert read(reader(), type="session.updated", session=session) == [SessionUpdated("audio/pcmu", "audio/pcma")]
    assert read(reader(), type="session.updated", session={"audio": None}) == [SessionUpdated("", "")]
    done = read(reader(), type="response.output_audio_transcript.done", transcript="Ja.", **PART)
    assert done == [TextEnded("r", "i", 0, "Ja.")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"type": 4}',
        b'{"type": "response.output_audio.delta"}',
        b"\xff\xfe",
        b'{"type":"response.output_audio.delta","response_id":"r","item_id":"i","delta":"%%"}',
    ],
)
def test_garbage_is_counted_and_survived(data):
    events = reader()
    assert events.read(data) == []
    assert events.counters["malformed"] == 1


def test_unknown_events_are_counted():
    events = reader()
    assert read(events, type="rehearsal.novelty") == []
    assert events.counters == {"unknown": 1}


# -- configuration, costs, tools -----------------------------------------------------------------------------


def test_cached_tokens_are_a_subset_of_the_input():
    usage = {
        "input_token_details": {
            "text_tokens": 1000,
            "audio_tokens": 2000,
            "cached_tokens_details": {"text_tokens": 400, "audio_tokens": 500},
        },
        "output_token_details": {"text_tokens": 100, "audio_tokens": 300},
    }
    cost = MODELS.cost_of_response("gpt-realtime-2.1", tokens_of(usage))
    assert cost == pytest.approx((600 * 4 + 400 * 0.4 + 1500 * 32 + 500 * 0.4 + 100 * 24 + 300 * 64) / 1e6)
    assert MODELS.cost_of_response("unheard-of", tokens_of(usage)) is None
    assert tokens_of(None) == tokens_of({"input_token_details": 3}) == {}


def test_a_broken_model_table_is_named_with_its_entry(tmp_path: Path):
    file = tmp_path / "models.toml"
    file.write_text('[models."m"]\ntext_in = "dear"\n')
    with pytest.raises(ModelsFileError, match=r"models\.toml: models\.m\.text_in"):
        load(file)


def test_usage_counted_carries_the_cost():
    usage = {"input_token_details": {"text_tokens": 10}, "output_token_details": {"text_tokens": 1}}
    events = read(reader(), type="response.done", response={"id": "r", "status": "failed", "usage": usage})
    assert isinstance(events[0], UsageCounted)
    assert events[0].cost_usd == pytest.approx(64e-6)


def test_tools_are_read_from_service_info_and_strange_endpoints_skipped():
    schema = '{"type": "object", "properties": {}}'
    info = {
        "endpoints": [
            {
                "subject": "v1.*.tool.price",
                "metadata": {"description": "d", "parameters": schema, "idempotent": "true"},
            },
            {"subject": "v1.*.tool.broken", "metadata": {"description": "d", "parameters": "{"}},
            {
                "subject": "v1.*.tool.refused",
                "metadata": {"description": "d", "parameters": "{}"},
            },  # by the models' APIs
            {"subject": "v1.rpc.x.y", "metadata": {}},
            {"subject": 4},
            None,
        ]
    }
    ((org, tool),) = descriptions_in(json.dumps(info).encode())
    assert (org, tool.name, tool.idempotent) == ("*", "price", True)
    assert descriptions_in(b"nonsense") == []


def test_results_become_words_of_a_prompt():
    assert as_prompt(["Bogen", "Muffe"]) == as_prompt({"types": ["Bogen", "Muffe"]}) == "Bogen, Muffe"
    assert as_prompt({"a": 1, "b": 2}) == '{"a": 1, "b": 2}'
    assert parse_arguments("[1]") is None
    assert parse_arguments("{") is None
    assert parse_arguments("") == {}
