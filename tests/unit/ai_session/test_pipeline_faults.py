"""What the endpoints of the pipeline may do to a call: it survives, or it ends for the right reason."""

from __future__ import annotations

import pytest

from services.ai_session.backends import port
from services.ai_session.phrases import Verbatim
from services.rehearsal.faults import parse_fault
from tests.unit.ai_session.pipeline_support import a_caller, stages_at, voices_at
from tests.unit.ai_session.test_pipeline import LONG, TOOLS, rehearsed

ALWAYS = 50


def impatient(stages):
    stages.transcriber.within_s = 0.8
    stages.chat_model.first_within_s = stages.chat_model.next_within_s = 0.3
    stages.chat_model.pauses_s = (0.01, 0.02)
    return stages


HEARD = [
    # fault, how often, the words came, the call goes on
    ("refuse:status=500", 1, True, True),
    ("refuse:status=500", ALWAYS, False, True),
    ("refuse:status=503,retry_after_s=0.1", 1, True, True),
    ("refuse:status=429,retry_after_s=0.1", 1, True, True),
    ("refuse:status=429,retry_after_s=30", 1, False, True),
    ("refuse:status=429", 1, False, False),  # the quota is used up
    ("refuse:status=401", 1, False, False),
    ("refuse:status=403", 1, False, False),
    ("refuse:status=400", 1, False, True),
    ("hang", ALWAYS, False, True),
    ("abort", 1, True, True),
    ("abort:after_deltas=1", 1, True, True),
    ("close", 1, True, True),
    ("stall:duration_ms=0", ALWAYS, False, True),
    ("malformed_json", 1, True, True),
    ("malformed_json", ALWAYS, False, True),
    ("error", 1, True, True),
    ("unknown_event", ALWAYS, True, True),
    ("extra_field", ALWAYS, True, True),
    ("missing_field:field=type", 1, True, True),
    ("wrong_content_type", ALWAYS, True, True),
]


@pytest.mark.parametrize(("fault", "times", "words_came", "goes_on"), HEARD)
async def test_faults_of_the_transcription(fault, times, words_came, goes_on):
    async with rehearsed() as rehearsal:
        rehearsal.inject(parse_fault(fault, "transcriptions"), times)
        async with a_caller(impatient(stages_at(rehearsal.base_url))) as caller:
            caller.say()
            transcript = await caller.until(port.CallerTranscript)
            assert (not transcript.failed, bool(transcript.text)) == (words_came, words_came)
            if not goes_on:
                assert not (await caller.until(port.Lost)).retry
                return
            rehearsal.clear_faults()
            caller.backend.start_response(None)
            assert (await caller.until(port.ResponseEnded)).status == "completed"
            assert not caller.of(port.Lost)


ANSWERED = [
    # fault, how often, how the response ended, the call goes on
    ("refuse:status=500", 1, "completed", True),
    ("refuse:status=500", ALWAYS, "failed", True),
    ("refuse:status=503,retry_after_s=0.1", 2, "completed", True),
    ("refuse:status=429,retry_after_s=0.1", 1, "completed", True),
    ("refuse:status=429,retry_after_s=30", 1, "failed", True),
    ("refuse:status=429", 1, "failed", False),  # the quota is used up
    ("refuse:status=401", 1, "failed", False),
    ("refuse:status=403", 1, "failed", False),
    ("hang", ALWAYS, "failed", True),
    ("hang", 1, "completed", True),
    ("abort", 1, "completed", True),
    ("abort:after_deltas=5", 1, "completed", True),
    ("abort:after_deltas=5", ALWAYS, "failed", True),
    ("close:after_deltas=5", 1, None, True),
    ("stall:duration_ms=0", ALWAYS, "failed", True),
    ("stall:duration_ms=0,after_deltas=5", 1, "completed", True),
    ("stall:duration_ms=0,after_deltas=5", ALWAYS, "failed", True),
    ("slow_drip:factor=20", ALWAYS, "completed", True),
    ("malformed_json", 1, "completed", True),
    ("malformed_json:after_deltas=5", 1, "completed", True),
    ("malformed_json:after_deltas=5", ALWAYS, "failed", True),
    ("error", 1, "completed", True),
    ("error:after_deltas=5", 1, "completed", True),
    ("error:after_deltas=5", ALWAYS, "failed", True),
    ("unknown_event", ALWAYS, "completed", True),
    ("extra_field", ALWAYS, "completed", True),
    ("missing_field:field=choices,after_deltas=1", 1, "completed", True),
    ("wrong_content_type", ALWAYS, "completed", True),
    ("incomplete", 1, "incomplete", True),
    ("incomplete:reason=content_filter", 1, "incomplete", True),
]


@pytest.mark.parametrize(("fault", "times", "status", "goes_on"), ANSWERED)
async def test_faults_of_the_chat_model(fault, times, status, goes_on):
    async with rehearsed() as rehearsal:
        rehearsal.inject(parse_fault(fault, "chat"), times)
        async with a_caller(impatient(stages_at(rehearsal.base_url))) as caller:
            caller.say()
            ended = await caller.until(port.ResponseEnded)
            assert ended.status == (status or ended.status)
            assert LONG.startswith(caller.text()) or "choices" in fault
            if status == "failed":
                assert ended.detail
            if not goes_on:
                assert not (await caller.until(port.Lost)).retry
                return
            rehearsal.clear_faults()
            caller.backend.start_response(None)
            assert (await caller.until(port.ResponseEnded, 2)).status == "completed"
            assert not caller.of(port.Lost)


async def test_a_rate_limit_tells_the_session_when_to_ask_again():
    async with rehearsed() as rehearsal:
        rehearsal.inject(parse_fault("refuse:status=429,retry_after_s=7", "chat"))
        async with a_caller(stages_at(rehearsal.base_url)) as caller:
            caller.backend.start_response(None)
            detail = (await caller.until(port.ResponseEnded)).detail
            assert detail.startswith("rate_limit_exceeded: ")
            assert "try again in 7s" in detail


async def test_arguments_that_are_no_json_are_handed_on_and_never_sent_back():
    async with rehearsed() as rehearsal, a_caller(stages_at(rehearsal.base_url), tools=TOOLS) as caller:
        caller.say()
        await caller.until(port.ResponseEnded)
        rehearsal.inject(parse_fault("invalid_arguments", "chat"))
        caller.say()
        await caller.until(port.ResponseEnded, 2)
        requests = caller.of(port.ToolRequested)
        for request in requests:
            caller.backend.tool_result(request.tool_call_id, '{"eur": 30}')
        assert (await caller.until(port.ResponseEnded, 3)).status == "completed"


SPOKEN = [
    ("refuse:status=500", 1, "completed", True),
    ("refuse:status=500", ALWAYS, "failed", True),
    ("refuse:status=429,retry_after_s=0.1", 1, "completed", True),
    ("refuse:status=429", 1, "failed", False),
    ("refuse:status=401", 1, "failed", False),
    ("refuse:status=400", 1, "failed", True),
    ("abort", 1, "completed", True),
    ("abort:after_deltas=1", 1, "failed", True),
    ("odd_bytes", ALWAYS, "completed", True),
    ("slow_drip:factor=20", ALWAYS, "completed", True),
    ("wrong_content_type", 1, None, True),
]


@pytest.mark.parametrize(("fault", "times", "status", "goes_on"), SPOKEN)
async def test_faults_of_the_voice(fault, times, status, goes_on):
    async with rehearsed() as rehearsal:
        rehearsal.inject(parse_fault(fault, "speech"), times)
        voices = voices_at(rehearsal.base_url)
        async with a_caller(stages_at(rehearsal.base_url, voices)) as caller:
            caller.backend.start_response(Verbatim("Guten Tag, was darf es sein?"))
            ended = await caller.until(port.ResponseEnded)
            assert ended.status == (status or ended.status)
            if not goes_on:
                assert not (await caller.until(port.Lost)).retry
            else:
                rehearsal.clear_faults()
                caller.backend.start_response(Verbatim("Noch einmal: guten Tag."))
                assert (await caller.until(port.ResponseEnded, 2)).status == "completed"
        await voices.close()
