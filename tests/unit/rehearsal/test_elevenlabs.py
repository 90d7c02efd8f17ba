import pytest

from services.rehearsal.faults import Fault
from services.rehearsal.speech import Speech

from .http_client import http_client, serving

VOICE = "RehearsalDeutschW001"
BODY = {"text": "Auf Wiederhören.", "model_id": "eleven_flash_v2_5", "language_code": "de"}


@pytest.fixture
async def rehearsal():
    async with serving() as server:
        yield server


def path(voice=VOICE, output_format="ulaw_8000"):
    return f"/v1/text-to-speech/{voice}/stream?output_format={output_format}"


async def test_text_becomes_mu_law_at_8_khz_in_pieces(rehearsal):
    async with http_client(rehearsal, **{"xi-api-key": "any"}) as http, http.post(path(), json=BODY) as answer:
        assert answer.status == 200
        assert answer.headers["character-cost"] == str(len(BODY["text"]))
        assert answer.headers.get("Transfer-Encoding") == "chunked"
        assert await answer.read() == Speech().encoded(BODY["text"], "audio/pcmu")
    record = rehearsal.requests.all("elevenlabs")[0]
    assert (record.usage, record.completed) == ({"characters": 16}, True)


@pytest.mark.parametrize(
    ("output_format", "bytes_per_s"), [("pcm_8000", 16000), ("pcm_16000", 32000), ("pcm_24000", 48000)]
)
async def test_every_format_lasts_equally_long(rehearsal, output_format, bytes_per_s):
    seconds = len(Speech().pcm(BODY["text"])) / 16000
    async with (
        http_client(rehearsal, **{"xi-api-key": "any"}) as http,
        http.post(path(output_format=output_format), json=BODY) as answer,
    ):
        assert len(await answer.read()) == pytest.approx(seconds * bytes_per_s, abs=4)


async def test_the_list_of_voices_has_german_ones(rehearsal):
    async with http_client(rehearsal, **{"xi-api-key": "any"}) as http, http.get("/v1/voices") as answer:
        voices = (await answer.json())["voices"]
    assert {voice["labels"]["gender"] for voice in voices if voice["labels"]["language"] == "de"} == {"male", "female"}


@pytest.mark.parametrize(
    ("where", "change", "status", "name"),
    [
        (path("nobody"), {}, 404, "voice_not_found"),
        (path(), {"model_id": "eleven_9"}, 400, "model_not_found"),
        (path(), {"model_id": "eleven_multilingual_v2"}, 400, "unsupported_language"),
        (path(), {"text": " "}, 400, "input_text_empty"),
        (path(), {"text": "x" * 40_001}, 400, "max_character_limit_exceeded"),
        (path(), {"voice_settings": {"speed": 2.0}}, 400, "invalid_voice_settings"),
        (path(output_format="mp3_44100_128"), {}, 400, "output_format_not_allowed"),
    ],
)
async def test_a_refusal_has_a_status_and_a_message(rehearsal, where, change, status, name):
    async with (
        http_client(rehearsal, **{"xi-api-key": "any"}) as http,
        http.post(where, json={**BODY, **change}) as answer,
    ):
        assert (answer.status, (await answer.json())["detail"]["status"]) == (status, name)


@pytest.mark.parametrize("change", [{"text": 5}, {"text": None}, {"voice_settings": {"stability": 2}}])
async def test_a_misshapen_body_is_answered_with_422_and_the_field(rehearsal, change):
    async with (
        http_client(rehearsal, **{"xi-api-key": "any"}) as http,
        http.post(path(), json={**BODY, **change}) as answer,
    ):
        assert answer.status == 422
        assert (await answer.json())["detail"][0]["loc"][:2] == ["body", next(iter(change))]


async def test_the_key_must_come_and_be_right():
    async with serving(api_key="right") as rehearsal, http_client(rehearsal, accept="*/*") as http:
        for headers, status, name in (
            ({}, 401, "needs_authorization"),
            ({"xi-api-key": "wrong"}, 401, "invalid_api_key"),
        ):
            async with http.post(path(), json=BODY, headers=headers) as answer:
                assert (answer.status, (await answer.json())["detail"]["status"]) == (status, name)
        async with http.post(path(), json=BODY, headers={"xi-api-key": "right"}) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("fault", "status", "name"),
    [
        ({"status": 401}, 401, "invalid_api_key"),
        ({"status": 401, "error_code": "quota_exceeded"}, 401, "quota_exceeded"),
        ({"status": 429, "retry_after_s": 2}, 429, "too_many_concurrent_requests"),
        ({"status": 429, "error_code": "system_busy"}, 429, "system_busy"),
        ({"status": 500}, 500, "internal_server_error"),
    ],
)
async def test_an_ordered_refusal_is_in_the_shape_of_elevenlabs(rehearsal, fault, status, name):
    rehearsal.inject(Fault(kind="refuse", on="elevenlabs", **fault))
    async with http_client(rehearsal, **{"xi-api-key": "any"}) as http:
        async with http.post(path(), json=BODY) as answer:
            assert (answer.status, (await answer.json())["detail"]["status"]) == (status, name)
        async with http.post(path(), json=BODY) as answer:
            assert answer.status == 200


async def test_more_requests_at_once_than_the_subscription_allows_get_429():
    async with serving(elevenlabs_concurrency=1) as rehearsal, http_client(rehearsal, **{"xi-api-key": "any"}) as http:
        rehearsal.inject(Fault(kind="stall", on="elevenlabs", duration_ms=0))
        async with http.post(path(), json=BODY), http.post(path(), json=BODY) as second:
            assert second.status == 429
            assert (await second.json())["detail"]["status"] == "too_many_concurrent_requests"


async def test_an_odd_number_of_bytes_can_be_ordered(rehearsal):
    rehearsal.inject(Fault(kind="odd_bytes", on="elevenlabs"))
    async with (
        http_client(rehearsal, **{"xi-api-key": "any"}) as http,
        http.post(path(output_format="pcm_16000"), json=BODY) as answer,
    ):
        assert len(await answer.read()) % 2 == 1
