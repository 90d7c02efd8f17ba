import base64
import json

import openai
import pytest

from libs.audio.wav import read_wav
from services.rehearsal.speech import Speech

from .http_client import http_client, openai_client, serving

TEXT = "Vielen Dank. Auf Wiederhören."
REQUEST = {"model": "gpt-4o-mini-tts", "voice": "marin", "input": TEXT, "response_format": "pcm"}
SPOKEN = Speech().encoded(TEXT, "audio/pcm")


@pytest.fixture
async def rehearsal():
    async with serving() as server:
        yield server


async def test_speech_comes_as_24_khz_pcm_in_pieces(rehearsal):
    async with (
        openai_client(rehearsal) as client,
        client.audio.speech.with_streaming_response.create(**REQUEST) as response,
    ):
        pieces = [piece async for piece in response.iter_bytes()]
    assert b"".join(pieces) == SPOKEN
    assert len(pieces) > 1


async def test_a_wav_has_a_header_of_unknown_length(rehearsal):
    async with openai_client(rehearsal) as client:
        answer = await client.audio.speech.create(**{**REQUEST, "response_format": "wav"})
    recording = read_wav(answer.content)
    assert (recording.rate_hz, recording.channels, recording.pcm) == (24000, 1, SPOKEN)


async def test_as_events_the_audio_ends_with_its_usage(rehearsal):
    body = {**REQUEST, "stream_format": "sse"}
    async with http_client(rehearsal) as http, http.post("/v1/audio/speech", json=body) as answer:
        assert answer.content_type == "text/event-stream"
        events = [json.loads(line[6:]) async for line in answer.content if line.startswith(b"data: ")]
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == SPOKEN
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["output_tokens"] == round(len(SPOKEN) / 48000 * 20)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input": "x" * 4097}, 400, "input"),
        ({"input": ""}, 400, "input"),
        ({"voice": "stranger"}, 400, "voice"),
        ({"model": "tts-1", "voice": "marin"}, 400, "voice"),
        ({"model": "tts-9"}, 404, None),
        ({"response_format": "wave"}, 400, "response_format"),
        ({"response_format": "mp3"}, 400, "response_format"),
        ({"speed": 9}, 400, "speed"),
        ({"extra_body": {"language": "de"}}, 400, "language"),
        ({"model": "tts-1", "voice": "alloy", "stream_format": "sse"}, 400, "stream_format"),
    ],
)
async def test_what_the_api_refuses_is_refused_with_the_field(rehearsal, change, status, param):
    async with openai_client(rehearsal) as client:
        with pytest.raises(openai.APIStatusError) as refusal:
            await client.audio.speech.create(**{**REQUEST, **change})
    assert (refusal.value.status_code, refusal.value.param) == (status, param)


async def test_a_voice_of_ones_own_is_named_by_its_id(rehearsal):
    async with openai_client(rehearsal) as client:
        answer = await client.audio.speech.create(**{**REQUEST, "voice": {"id": "voice_1234"}})
    assert answer.content == SPOKEN


async def test_speech_ends_with_its_models():
    async with serving(today="2027-01-07") as rehearsal, openai_client(rehearsal) as client:
        with pytest.raises(openai.NotFoundError):
            await client.audio.speech.create(**REQUEST)
