import numpy as np
import openai
import pytest

from libs.audio.g711 import Law
from libs.audio.resample import Resampler
from libs.audio.wav import write_wav
from services.rehearsal.caller_clips import CallerClips, has_speech
from services.rehearsal.faults import Fault
from services.rehearsal.speech import CLIPS, babble, silence, to_8k

from .http_client import ORDER, caller_clip, http_client, openai_client, serving, wav

MODEL = "gpt-transcribe"
NAMES = [f"bestellung-{number}" for number in range(1, 6)]
KNOWN = CallerClips(CLIPS / "caller")


@pytest.fixture
async def rehearsal():
    async with serving() as server:
        yield server


def noise(ms, level=1000):
    return np.random.default_rng(5).normal(0, level, 8 * ms).astype("<i2").tobytes()


def tone(ms):
    return (np.sin(np.arange(8 * ms) * 0.6) * 8000).astype("<i2").tobytes()


def mixed(a, b):
    a, b = np.frombuffer(a, "<i2").astype(int), np.frombuffer(b, "<i2").astype(int)
    return np.clip(a + b[: len(a)], -32768, 32767).astype("<i2").tobytes()


def quiet(pcm, factor):
    return (np.frombuffer(pcm, "<i2") * factor).astype("<i2").tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [
        lambda pcm: pcm,
        lambda pcm: silence(900) + pcm + silence(1300),
        lambda pcm: Law.PCMA.decode(Law.PCMA.encode(quiet(pcm, 0.15))),
        lambda pcm: to_8k(Resampler(8000, 24000).process(pcm), 24000),
        lambda pcm: mixed(pcm, noise(len(pcm) // 16 + 1, 250)),
        lambda pcm: silence(300) + pcm[: len(pcm) // 4 * 2],
        lambda pcm: pcm[14:],
    ],
    ids=["as it is", "in silence", "quiet G.711", "resampled", "noisy", "first half", "off the frame's grid"],
)
def test_a_callers_recording_is_recognised_through_what_a_line_does_to_it(name, change):
    turn = KNOWN.recognise(change(caller_clip(name)))
    assert (turn.scenario, turn.number) == ("bestellung", NAMES.index(name) + 1)


@pytest.mark.parametrize("pcm", [b"", silence(800), noise(2000), tone(1500), babble("etwas ganz anderes, bitte sehr")])
def test_other_sounds_are_no_recording(pcm):
    assert KNOWN.recognise(pcm) is None


def test_only_speech_is_taken_for_speech():
    assert has_speech(babble("guten Tag"))
    click = silence(300) + noise(30, 9000) + silence(300)
    assert not any(map(has_speech, (b"", silence(500), noise(1000), tone(1000), click)))


async def transcribed(client, pcm, rate_hz=8000, **options):
    return await client.audio.transcriptions.create(**{"model": MODEL, "file": wav(pcm, rate_hz), **options})


async def test_a_recording_comes_back_as_its_words_whatever_the_order(rehearsal):
    async with openai_client(rehearsal) as client:
        for number in (4, 1, 4):
            answer = await transcribed(client, caller_clip(f"bestellung-{number}"), languages=["de"], keywords=["T"])
            assert answer.text == ORDER.turns[number - 1].caller
            assert [language.code for language in answer.languages] == ["de"]
    assert [record.turn for record in rehearsal.requests.all("transcriptions")] == [4, 1, 4]


async def test_plain_text_is_the_words_and_nothing_else(rehearsal):
    async with openai_client(rehearsal) as client:
        text = await transcribed(client, caller_clip("bestellung-1"), response_format="text")
    assert text == f"{ORDER.turns[0].caller}\n"


async def test_a_stream_of_deltas_adds_up_to_the_text(rehearsal):
    async with openai_client(rehearsal) as client:
        stream = await transcribed(client, caller_clip("bestellung-2"), stream=True)
        events = [event async for event in stream]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == ORDER.turns[1].caller
    assert len(events) > 3
    assert events[-1].usage.total_tokens == events[-1].usage.input_tokens + events[-1].usage.output_tokens


async def test_unknown_speech_is_the_scenarios_next_turn(rehearsal):
    speech = babble("gesprochen")
    async with openai_client(rehearsal) as client:
        texts = [
            (await transcribed(client, speech, extra_query={"scenario": "loud", "conversation": name})).text
            for name in ("a", "a", "b", "a")
        ]
        assert texts == ["Was kostet das?", "Nein danke.", "Was kostet das?", "(unverständlich)"]
        after = await transcribed(client, caller_clip("bestellung-3"), extra_query={"conversation": "c"})
        prompted = await transcribed(client, speech, prompt="[scenario: bestellung]", extra_query={"conversation": "c"})
    assert (after.text, prompted.text) == (ORDER.turns[2].caller, ORDER.turns[3].caller)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="refuse", on="transcriptions", status=503),
        Fault(kind="hang", on="transcriptions"),
        Fault(kind="abort", on="transcriptions"),
        Fault(kind="malformed_json", on="transcriptions"),
    ],
    ids=lambda fault: fault.kind,
)
async def test_speech_that_is_sent_again_because_no_proper_answer_came_is_the_same_turn(rehearsal, fault):
    speech, where = babble("gesprochen"), {"scenario": "loud", "conversation": "a"}
    async with openai_client(rehearsal, timeout=0.5) as client:
        rehearsal.inject(fault)
        with pytest.raises((openai.APIError, ValueError)):
            await transcribed(client, speech, extra_query=where)
        meanwhile = await transcribed(client, babble("von jemand anderem"), extra_query=where)
        again = [(await transcribed(client, speech, extra_query=where)).text for _ in range(2)]
    assert (meanwhile.text, again) == ("Nein danke.", ["Was kostet das?", "(unverständlich)"])
    assert [record.asked["match"] for record in rehearsal.requests.all()] == [*["next turn"] * 2, "again", "next turn"]


@pytest.mark.parametrize("pcm", [silence(700), noise(900), tone(400)])
async def test_what_is_no_speech_has_no_text_and_no_language(rehearsal, pcm):
    async with openai_client(rehearsal) as client:
        answer = await transcribed(client, pcm)
    assert (answer.text, answer.languages) == ("", [])


@pytest.mark.parametrize(
    ("model", "kind"), [("gpt-transcribe", "duration"), ("gpt-4o-transcribe", "tokens"), ("whisper-1", "duration")]
)
async def test_usage_is_what_the_model_is_billed_by(rehearsal, model, kind):
    pcm = caller_clip("bestellung-1")
    async with openai_client(rehearsal) as client:
        usage = (await transcribed(client, pcm, model=model)).usage
    assert usage.type == kind
    ms = len(pcm) / 16
    assert (
        usage.seconds == pytest.approx(ms / 1000, abs=0.001)
        if kind == "duration"
        else usage.input_tokens == round(ms / 100)
    )


async def test_whisper_writes_verbose_json_and_ignores_stream(rehearsal):
    async with openai_client(rehearsal) as client:
        answer = await transcribed(
            client,
            caller_clip("bestellung-5"),
            model="whisper-1",
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        assert (answer.language, answer.text) == ("german", ORDER.turns[4].caller)
        assert answer.words[-1].end == pytest.approx(answer.duration, abs=0.02)
        assert (await transcribed(client, caller_clip("bestellung-5"), model="whisper-1", stream=True)) is not None


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"file": ("turn.pcm", b"\0" * 9000, "audio/pcm")}, 400, "file"),
        ({"file": ("turn", b"\0" * 9000, "application/octet-stream")}, 400, "file"),
        ({"file": ("turn.wav", b"\0" * 9000, "audio/wav")}, 400, "file"),
        ({"file": ("turn.mp3", b"RIFF" * 999, "audio/mpeg")}, 400, "file"),
        ({"file": wav(silence(50))}, 400, "file"),
        ({"model": "gpt-9-transcribe"}, 404, None),
        ({"response_format": "vtt"}, 400, "response_format"),
        ({"model": "gpt-4o-transcribe", "languages": ["de"]}, 400, "languages"),
        ({"language": "german"}, 400, "language"),
        ({"language": "de", "languages": ["en"]}, 400, "languages"),
        ({"temperature": 3}, 400, "temperature"),
        ({"timestamp_granularities": ["word"]}, 400, "timestamp_granularities"),
        ({"extra_body": {"speed": 2}}, 400, "speed"),
    ],
)
async def test_what_the_api_refuses_is_refused_with_the_field(rehearsal, options, status, param):
    async with openai_client(rehearsal) as client:
        with pytest.raises(openai.APIStatusError) as refusal:
            await transcribed(client, caller_clip("bestellung-3"), **options)
    assert (refusal.value.status_code, refusal.value.param) == (status, param)
    assert rehearsal.requests.all()[0].status == status


async def test_a_json_body_is_no_upload(rehearsal):
    async with http_client(rehearsal) as http, http.post("/v1/audio/transcriptions", json={}) as answer:
        assert answer.status == 415


async def test_an_upload_over_25_mb_is_too_large(rehearsal):
    async with openai_client(rehearsal) as client:
        with pytest.raises(openai.APIStatusError) as refusal:
            await client.audio.transcriptions.create(
                model=MODEL, file=("turn.wav", write_wav(bytes(2**20 * 26), 48000), "audio/wav")
            )
    assert refusal.value.status_code == 413
