"""Each fault as a client of the endpoint meets it."""

import asyncio
import json

import httpx2
import openai
import pytest
from pydantic import ValidationError

from services.rehearsal.faults import Fault
from services.rehearsal.scenario import Scenario
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from services.rehearsal.speech import Speech

from .http_client import INSTANT, LOUD, PRICE, caller_clip, http_client, openai_client, serving, wav

CHAT = {"model": "gpt-5.6-luna", "messages": [{"role": "system", "content": "[scenario: loud]"}]}
ASKED = [*CHAT["messages"], {"role": "user", "content": "Was kostet das?"}]
SPEECH = {"model": "gpt-4o-mini-tts", "voice": "marin", "input": "Auf Wiederhören.", "response_format": "pcm"}


@pytest.fixture
async def rehearsal():
    async with serving() as server:
        yield server


async def chat(client, **options):
    return await client.chat.completions.create(**{**CHAT, **options})


async def speech(client):
    return await client.audio.speech.create(**SPEECH)


async def transcription(client, **options):
    clip = caller_clip("bestellung-3")
    return await client.audio.transcriptions.create(model="gpt-transcribe", file=wav(clip), **options)


ASKING = {"chat": chat, "speech": speech, "transcriptions": transcription}


@pytest.mark.parametrize("on", ASKING)
@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (401, openai.AuthenticationError, "invalid_api_key"),
        (403, openai.PermissionDeniedError, "unsupported_country_region_territory"),
        (429, openai.RateLimitError, "insufficient_quota"),
        (500, openai.InternalServerError, "server_error"),
        (503, openai.InternalServerError, None),
    ],
)
async def test_a_refusal_strikes_the_next_request_of_its_endpoint(rehearsal, on, status, error, code):
    rehearsal.inject(Fault(kind="refuse", on=on, status=status))
    async with openai_client(rehearsal) as client:
        for endpoint, ask in ASKING.items():
            if endpoint != on:
                await ask(client)
        with pytest.raises(error) as refusal:
            await ASKING[on](client)
        assert (refusal.value.code, refusal.value.status_code) == (code, status)
        await ASKING[on](client)


async def test_a_rate_limit_says_when_to_come_again(rehearsal):
    rehearsal.inject(Fault(kind="refuse", on="chat", status=429, retry_after_s=2.5))
    async with openai_client(rehearsal) as client:
        with pytest.raises(openai.RateLimitError) as refusal:
            await chat(client)
    headers = refusal.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("3", "2500")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert refusal.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize("on", ASKING)
async def test_a_request_can_hang(rehearsal, on):
    rehearsal.inject(Fault(kind="hang", on=on))
    async with openai_client(rehearsal, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            await ASKING[on](client)


async def content_of(stream):
    text = ""
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text


async def test_a_stream_can_be_aborted_between_two_chunks(rehearsal):
    rehearsal.inject(Fault(kind="abort", on="chat", after_deltas=3))
    async with openai_client(rehearsal) as client:
        with pytest.raises((httpx2.HTTPError, openai.APIError)):
            await content_of(await chat(client, stream=True))
    assert not rehearsal.requests.all()[0].completed


async def test_a_stream_can_end_early_in_good_order(rehearsal):
    rehearsal.inject(Fault(kind="close", on="chat", after_deltas=3))
    async with openai_client(rehearsal) as client:
        text = await content_of(await chat(client, stream=True))
    assert text
    assert "Guten Tag.".startswith(text)
    assert text != "Guten Tag."


async def test_a_stream_can_bring_an_error(rehearsal):
    rehearsal.inject(Fault(kind="error", on="chat", after_deltas=2, error_code="server_error"))
    async with openai_client(rehearsal) as client:
        with pytest.raises(openai.APIError, match="rehearsed"):
            await content_of(await chat(client, stream=True))


async def test_a_stream_can_bring_what_is_no_json(rehearsal):
    rehearsal.inject(Fault(kind="malformed_json", on="chat", after_deltas=2))
    async with openai_client(rehearsal) as client:
        with pytest.raises(json.JSONDecodeError):
            await content_of(await chat(client, stream=True))


async def test_an_answer_can_be_no_json_at_all(rehearsal):
    rehearsal.inject(Fault(kind="malformed_json", on="chat"))
    async with http_client(rehearsal) as http, http.post("/v1/chat/completions", json=CHAT) as answer:
        with pytest.raises(json.JSONDecodeError):
            json.loads(await answer.read())


@pytest.mark.parametrize("kind", ["extra_field", "unknown_event"])
async def test_novelties_in_a_stream_are_to_be_survived(rehearsal, kind):
    rehearsal.inject(Fault(kind=kind, on="chat", after_deltas=2))
    async with openai_client(rehearsal) as client:
        stream = await chat(client, stream=True)
        text = "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices or []])
    assert text == "Guten Tag."


async def test_a_stall_ends_after_its_time(rehearsal):
    rehearsal.inject(Fault(kind="stall", on="chat", after_deltas=2, duration_ms=50))
    loop = asyncio.get_running_loop()
    async with openai_client(rehearsal) as client:
        began_at = loop.time()
        assert await content_of(await chat(client, stream=True)) == "Guten Tag."
    assert loop.time() - began_at >= 0.05


@pytest.mark.parametrize("on", ["speech", "elevenlabs"])
async def test_slow_speech_drips_at_a_part_of_real_time(rehearsal, on):
    seconds = len(Speech().pcm("Ja.")) / 16000
    factor = seconds / 0.1  # so that the whole takes a tenth of a second
    loop = asyncio.get_running_loop()
    headers = {"Authorization": "Bearer any", "xi-api-key": "any"}
    path, body = {
        "speech": ("/v1/audio/speech", {**SPEECH, "input": "Ja."}),
        "elevenlabs": ("/v1/text-to-speech/RehearsalDeutschM001/stream?output_format=ulaw_8000", {"text": "Ja."}),
    }[on]
    rehearsal.inject(Fault(kind="slow_drip", on=on, factor=factor))
    async with http_client(rehearsal, **headers) as http:
        began_at = loop.time()
        async with http.post(path, json=body) as answer:
            assert len(await answer.read()) > 1000
    assert loop.time() - began_at > 0.04


@pytest.mark.parametrize(("reason", "expected"), [("", "length"), ("content_filter", "content_filter")])
async def test_an_answer_can_be_left_incomplete(rehearsal, reason, expected):
    rehearsal.inject(Fault(kind="incomplete", on="chat", reason=reason))
    async with openai_client(rehearsal) as client:
        choice = (await chat(client)).choices[0]
    assert (choice.finish_reason, choice.message.content) == (expected, "Guten")


async def test_arguments_can_be_no_json_at_a_later_turn(rehearsal):
    rehearsal.inject(Fault(kind="invalid_arguments", on="chat", turn=1))
    async with openai_client(rehearsal) as client:
        await chat(client)
        call = (await chat(client, messages=ASKED, tools=[PRICE])).choices[0].message.tool_calls[0]
        with pytest.raises(json.JSONDecodeError):
            json.loads(call.function.arguments)
        call = (await chat(client, messages=ASKED, tools=[PRICE])).choices[0].message.tool_calls[0]
        assert json.loads(call.function.arguments) == {"article": "4711"}


async def test_a_transcript_can_be_empty(rehearsal):
    rehearsal.inject(Fault(kind="empty_transcript", on="transcriptions"))
    async with openai_client(rehearsal) as client:
        assert (await transcription(client)).text == ""
        assert (await transcription(client)).text != ""


async def test_a_content_type_can_be_wrong(rehearsal):
    rehearsal.inject(Fault(kind="wrong_content_type", on="speech"))
    async with http_client(rehearsal) as http, http.post("/v1/audio/speech", json=SPEECH) as answer:
        assert answer.content_type == "text/html"


async def test_pcm_can_have_half_a_sample(rehearsal):
    rehearsal.inject(Fault(kind="odd_bytes", on="speech"))
    async with openai_client(rehearsal) as client:
        assert len((await speech(client)).content) % 2 == 1


async def test_a_fault_in_the_url_is_for_that_request(rehearsal):
    async with openai_client(rehearsal) as client:
        with pytest.raises(openai.InternalServerError):
            await chat(client, extra_query={"fault": "refuse:status=500"})
        with pytest.raises(openai.BadRequestError) as refusal:
            await chat(client, extra_query={"fault": "no_pong"})
        assert refusal.value.code == "invalid_fault"


def test_a_fault_that_cannot_happen_on_an_endpoint_is_refused():
    with pytest.raises(ValidationError, match="no_pong cannot happen on speech"):
        Fault(kind="no_pong", on="speech")
    with pytest.raises(ValidationError, match="is a WebSocket"):
        Fault(kind="wrong_content_type", on="live")


async def test_a_scenarios_faults_strike_once_in_each_conversation():
    failing = Scenario(
        name="failing",
        greeting="Guten Tag.",
        turns=LOUD.turns,
        faults=[{"kind": "refuse", "on": "chat", "turn": 1, "status": 503}],
    )
    system = {"role": "system", "content": "[scenario: failing]"}
    asked = [system, {"role": "user", "content": "Was kostet das?"}]
    started = Rehearsal.start(RehearsalSettings(**INSTANT), scenarios=[failing])
    async with started as rehearsal, openai_client(rehearsal) as client:
        for name in ("call-1", "call-2"):
            await chat(client, messages=[system], user=name)
            with pytest.raises(openai.InternalServerError):
                await chat(client, messages=asked, user=name)
            await chat(client, messages=asked, user=name)


async def test_a_client_that_goes_is_noted(rehearsal):
    rehearsal.inject(Fault(kind="slow_drip", on="speech", factor=20))
    async with http_client(rehearsal) as http:
        answer = await http.post("/v1/audio/speech", json={**SPEECH, "input": "Vielen Dank. " * 200})
        await answer.content.readany()
        answer.close()
    record = rehearsal.requests.all("speech")[0]
    async with asyncio.timeout(5):
        while record.error is None:  # noqa: ASYNC110  a record is data, without an event to await
            await asyncio.sleep(0.01)
    assert not record.completed
    assert record.sent_bytes < len(Speech().encoded("Vielen Dank. " * 200, "audio/pcm"))
