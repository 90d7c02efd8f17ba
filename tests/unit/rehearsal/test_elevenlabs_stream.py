import asyncio
import base64
import json

import pytest
from hypothesis import given, strategies as st

from services.rehearsal.elevenlabs_stream import Spoken, TextStream
from services.rehearsal.faults import Fault
from services.rehearsal.outputs import Close
from services.rehearsal.speech import Speech

from .http_client import http_client, serving

QUERY = "model_id=eleven_flash_v2_5&output_format=ulaw_8000&language_code=de"
PATH = f"/v1/text-to-speech/RehearsalDeutschM001/stream-input?{QUERY}"
BEGIN = {"text": " ", "voice_settings": {"stability": 0.5}, "xi_api_key": "any"}


def stream_of(**options):
    return TextStream(lambda text: text.encode(), 10, **options)


def fed(stream, *messages):
    return [output for message in messages for output in stream.receive(json.dumps(message))]


def spoken(outputs):
    return [base64.b64decode(output.frame["audio"]).decode() for output in outputs if isinstance(output, Spoken)]


def test_little_text_waits_for_the_end():
    stream = stream_of()
    assert fed(stream, BEGIN, {"text": "Guten Tag. "}) == []
    outputs = fed(stream, {"text": "Hallo. "}, {"text": ""})
    assert spoken(outputs) == ["Guten Tag.", "Hallo."]
    assert outputs[-2:] == [{"audio": None, "isFinal": True}, Close(1000)]
    assert (stream.closed, stream.characters) == (True, 17)


def test_a_flush_speaks_what_there_is():
    assert spoken(fed(stream_of(), BEGIN, {"text": "Guten Tag ", "flush": True})) == ["Guten Tag"]


def test_in_auto_mode_every_sentence_is_spoken_at_once():
    stream = stream_of(auto_mode=True)
    assert spoken(fed(stream, BEGIN, {"text": "Guten Tag. Was "})) == ["Guten Tag."]
    assert spoken(fed(stream, {"text": "nun? "})) == ["Was nun?"]


def test_the_schedule_tells_how_much_text_is_enough():
    stream = stream_of()
    fed(stream, {**BEGIN, "generation_config": {"chunk_length_schedule": [50, 60]}})
    assert spoken(fed(stream, {"text": "wort " * 9})) == []
    assert spoken(fed(stream, {"text": "wort wo"})) == [("wort " * 10).strip()]


def test_the_alignment_covers_every_character_of_the_audio():
    (output, *_) = fed(stream_of(), BEGIN, {"text": "Guten Tag.", "flush": True})
    alignment = output.frame["alignment"]
    assert "".join(alignment["chars"]) == "Guten Tag."
    assert alignment["charStartTimesMs"][-1] + alignment["charDurationsMs"][-1] == round(1000 * output.seconds)


@given(st.lists(st.tuples(st.text(alphabet="ab .?", min_size=1, max_size=200), st.booleans()), max_size=8))
def test_whatever_the_pieces_all_text_is_spoken_in_order(pieces):
    stream = stream_of()
    outputs = fed(stream, BEGIN, *({"text": text, "flush": flush} for text, flush in pieces), {"text": ""})
    assert "".join("".join(spoken(outputs)).split()) == "".join("".join(text for text, _ in pieces).split())


@pytest.mark.parametrize(
    "message",
    [
        [],
        {"txt": "x"},
        {"text": 5},
        {**BEGIN, "voice_settings": {"speed": 3}},
        {**BEGIN, "generation_config": {"chunk_length_schedule": [5]}},
    ],
)
def test_a_faulty_message_ends_the_connection(message):
    outputs = fed(stream_of(), message)
    assert outputs[0]["code"] == outputs[1].code == 1008


async def received(socket):
    messages = []
    async with asyncio.timeout(5):
        async for message in socket:
            messages.append(message.json())
    return messages


async def test_text_sent_in_pieces_comes_back_as_speech():
    async with serving() as rehearsal, http_client(rehearsal, accept="*/*") as http:
        async with http.ws_connect(PATH) as socket:
            for message in (BEGIN, {"text": "Vielen "}, {"text": "Dank. Auf Wiederhören."}, {"text": ""}):
                await socket.send_json(message)
            messages = await received(socket)
        assert socket.close_code == 1000
    record = rehearsal.requests.all("elevenlabs")[0]
    audio = [base64.b64decode(message["audio"]) for message in messages[:-1]]
    assert audio == [Speech().encoded(text, "audio/pcmu") for text in ("Vielen Dank.", "Auf Wiederhören.")]
    assert messages[-1] == {"audio": None, "isFinal": True}
    assert (record.completed, record.usage) == (True, {"characters": 29})


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (PATH.replace("RehearsalDeutschM001", "nobody"), "voice_not_found"),
        (PATH.replace("flash", "flush"), "model_not_found"),
        (PATH.replace("ulaw_8000", "mp3_44100_128"), "output_format_not_allowed"),
        (f"{PATH}&inactivity_timeout=0.05", "input_timeout_exceeded"),
    ],
)
async def test_what_is_wrong_is_said_over_the_socket(path, error):
    async with serving() as rehearsal, http_client(rehearsal, **{"xi-api-key": "any"}) as http:
        async with http.ws_connect(path) as socket:
            messages = await received(socket)
        assert (messages[0]["error"], socket.close_code) == (error, 1008)


async def test_the_key_may_come_in_the_first_message_and_must_be_right():
    async with (
        serving(api_key="right") as rehearsal,
        http_client(rehearsal, accept="*/*") as http,
        http.ws_connect(PATH) as socket,
    ):
        await socket.send_json(BEGIN)
        assert (await received(socket))[0]["error"] == "invalid_api_key"


async def test_the_connection_can_break_after_a_message():
    async with serving() as rehearsal, http_client(rehearsal, accept="*/*") as http:
        rehearsal.inject(Fault(kind="close", on="elevenlabs", after_deltas=1, code=1011))
        async with http.ws_connect(PATH) as socket:
            await socket.send_json(BEGIN)
            await socket.send_json({"text": "Ja. Nein. ", "flush": True})
            assert len(await received(socket)) == 1
        assert socket.close_code == 1011
