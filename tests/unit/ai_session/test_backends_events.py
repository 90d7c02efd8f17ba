"""Server events with nulls where the API documents a value, and usage without details."""

from __future__ import annotations

import pytest

from services.ai_session.backends.port import (
    AudioDelta,
    CallerTranscript,
    ResponseEnded,
    TextDelta,
    ToolRequested,
    UsageCounted,
)
from services.ai_session.backends.realtime_events import ErrorReceived, OutputTaken, ResponseCreated
from services.ai_session.costs import Models, tokens_of
from tests.unit.ai_session.test_cores import MODELS, PART, read, reader

CALL = {"type": "function_call", "id": None, "call_id": "t", "name": "n", "arguments": None}


@pytest.mark.parametrize(
    ("response", "ended"),
    [
        ({"id": "r", "status": "completed", "output": None}, ResponseEnded("r", "completed")),
        (
            {"id": "r", "status": "completed", "output": [{"type": "message", "id": None}]},
            ResponseEnded("r", "completed"),
        ),
        ({"id": "r", "status": None, "output": []}, ResponseEnded("r", "incomplete", "status None")),
        ({"id": "r", "status": "failed", "metadata": "x"}, ResponseEnded("r", "failed")),
    ],
)
def test_a_response_ends_whatever_is_null_in_it(response, ended):
    assert read(reader(), type="response.done", response=response) == [ended]


def test_a_call_without_arguments_is_a_call():
    (called, _) = read(
        reader(), type="response.done", response={"id": "r", "status": "completed", "output": [CALL, {"type": None}]}
    )
    assert called == ToolRequested("r", "t", "n", "{}")


def test_the_language_that_was_spoken_is_told():
    kind = "conversation.item.input_audio_transcription.completed"
    said = read(reader(), type=kind, item_id="i", transcript="Guten Tag", languages=[{"code": "de"}])
    assert said == [CallerTranscript("i", "Guten Tag", language="de")]


def test_other_nulls_are_no_reason_to_lose_an_event():
    kind = "conversation.item.input_audio_transcription.completed"
    assert read(reader(), type=kind, item_id="i", transcript=None) == [CallerTranscript("i", "")]
    assert read(reader(), type="response.created", response={"id": "r", "metadata": 3}) == [ResponseCreated("r", None)]
    text = read(reader(), type="response.output_audio_transcript.delta", delta=None, **PART)
    assert text == [TextDelta("r", "i", 0, "")]
    error = {"type": "server_error", "code": "x", "message": None}
    assert read(reader(), type="error", error=error) == [ErrorReceived("x", "", "", None, "server_error")]
    error = {"type": None, "code": None, "message": "no"}
    assert read(reader(), type="error", error=error) == [ErrorReceived("error", "no", "", None, "")]


@pytest.mark.parametrize("what", ["created", "added", "done"])
def test_the_server_confirms_an_output_in_any_dialect(what):
    item = {"id": "x", "type": "function_call_output", "call_id": "t", "output": "{}"}
    assert read(reader(), type=f"conversation.item.{what}", item=item) == [OutputTaken("t")]
    assert read(reader(), type=f"conversation.item.{what}", item={"type": "message", "id": "m"}) == []


def test_an_audio_delta_needs_its_audio():
    events = reader()
    assert read(events, type="response.output_audio.delta", delta=None, **PART) == []
    assert events.counters["malformed"] == 1
    assert isinstance(read(events, type="response.output_audio.delta", delta="/w==", **PART)[0], AudioDelta)


def test_usage_without_details_is_priced_as_audio_so_that_a_budget_holds():
    usage = {"total_tokens": 1500, "input_tokens": 1000, "output_tokens": 500}
    assert tokens_of(usage) == {"audio_in": 1000, "audio_out": 500}
    assert MODELS.cost_of_response("gpt-realtime-2.1", tokens_of(usage)) == pytest.approx(0.064)
    assert tokens_of(usage, speaks=False) == {"audio_in": 1000, "text_out": 500}


def test_a_model_is_priced_when_all_of_a_response_can_be_paid():
    assert MODELS.get("gpt-realtime-2.1").is_priced
    assert not MODELS.get("gpt-realtime").is_priced
    assert not Models().get("unheard-of").is_priced


@pytest.mark.parametrize("status", ["completed", "cancelled", "failed", "incomplete"])
def test_every_response_is_paid_whatever_became_of_it(status):
    usage = {"input_tokens": 100, "output_tokens": 50}
    events = read(reader(), type="response.done", response={"id": "r", "status": status, "usage": usage})
    assert [event.cost_usd > 0 for event in events if isinstance(event, UsageCounted)] == [True]
