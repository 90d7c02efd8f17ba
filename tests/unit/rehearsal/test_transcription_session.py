"""`intent=transcription`: the caller's words without an answer."""

import asyncio
import base64

import aiohttp
import pytest

from libs.audio.g711 import Law
from services.rehearsal.caller_clips import CallerClips
from services.rehearsal.listening import Listener
from services.rehearsal.scenario import ScenarioSet
from services.rehearsal.speech import CLIPS, encode, silence

from .driver import SIMPLE, Driver, error_of, kinds, of, one
from .http_client import ORDER, caller_clip, serving

KIND = "conversation.item.input_audio_transcription"
VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}


def driver_of(transcription, *, audio_format=None, listener=None, **audio_input):
    driver = Driver(session_type="transcription", model="", listener=listener)
    fields = {"format": audio_format or {"type": "audio/pcmu"}, "transcription": transcription, **audio_input}
    driver.send("session.update", session={"type": "transcription", "audio": {"input": fields}})
    return driver


def listener():
    return Listener(CallerClips(CLIPS / "caller"), ScenarioSet([SIMPLE, ORDER], "simple"))


def said(driver, pcm, encode=Law.PCMU.encode):
    data = encode(pcm)
    found = []
    for start in range(0, len(data), 160):
        chunk = base64.b64encode(data[start : start + 160]).decode()
        found += driver.send("input_audio_buffer.append", audio=chunk)
    return found


def test_with_server_vad_each_turn_is_transcribed_by_its_sound():
    driver = driver_of({"model": "gpt-transcribe", "languages": ["de"]}, listener=listener(), turn_detection=VAD)
    for name in (3, 1):
        found = said(driver, silence(300) + caller_clip(f"bestellung-{name}") + silence(700)) + driver.settle()
        # A pause inside a turn may end it for the VAD: then both parts are the same turn.
        whole = of(found, f"{KIND}.completed")
        assert {event["transcript"] for event in whole} == {ORDER.turns[name - 1].caller}
        assert whole[0]["languages"] == [{"code": "de"}]
        assert kinds(found)[:1] == ["input_audio_buffer.speech_started"]
        assert "response.created" not in kinds(found)


@pytest.mark.parametrize("model", ["gpt-live-transcribe", "gpt-realtime-whisper"])
def test_a_model_without_turns_waits_for_the_commit(model):
    driver = driver_of({"model": model}, listener=listener())
    assert one(driver.frames, "session.updated")["session"]["audio"]["input"]["turn_detection"] is None
    found = said(driver, caller_clip("bestellung-2") + silence(2000)) + driver.settle()
    assert kinds(found) == []
    driver.send("input_audio_buffer.commit")
    found = driver.settle()
    assert one(found, f"{KIND}.completed")["transcript"] == ORDER.turns[1].caller
    assert "".join(event["delta"] for event in of(found, f"{KIND}.delta")) == ORDER.turns[1].caller


@pytest.mark.parametrize("model", ["gpt-live-transcribe", "gpt-realtime-whisper"])
def test_a_model_without_turns_refuses_turn_detection(model):
    assert error_of(driver_of({"model": model}, turn_detection=VAD).frames)["param"].endswith("turn_detection")
    driver = driver_of({"model": model})
    update = {"type": "transcription", "audio": {"input": {"turn_detection": VAD}}}
    assert error_of(driver.send("session.update", session=update))["param"].endswith("turn_detection")


@pytest.mark.parametrize(
    ("transcription", "param"),
    [
        ({"model": "gpt-9-transcribe"}, "model"),
        ({"language": "de"}, "model"),
        ({"model": "gpt-realtime-whisper", "prompt": "x"}, "prompt"),
        ({"model": "gpt-4o-transcribe", "languages": ["de"]}, "languages"),
        ({"model": "whisper-1", "keywords": ["x"]}, "keywords"),
        ({"model": "gpt-transcribe", "delay": "low"}, "delay"),
    ],
)
def test_what_a_transcription_model_does_not_take_is_refused(transcription, param):
    assert error_of(driver_of(transcription).frames)["param"] == f"session.audio.input.transcription.{param}"


def test_24_khz_audio_is_recognised_too():
    pcm24 = {"type": "audio/pcm", "rate": 24000}
    driver = driver_of({"model": "gpt-transcribe"}, audio_format=pcm24, listener=listener(), turn_detection=None)
    said(driver, caller_clip("bestellung-5"), lambda pcm: encode(pcm, "audio/pcm"))
    driver.send("input_audio_buffer.commit")
    assert one(driver.settle(), f"{KIND}.completed")["transcript"] == ORDER.turns[4].caller


def test_silence_is_transcribed_as_nothing():
    driver = driver_of({"model": "gpt-transcribe"}, listener=listener(), turn_detection=None)
    said(driver, silence(900))
    driver.send("input_audio_buffer.commit")
    found = driver.settle()
    assert (one(found, f"{KIND}.completed")["transcript"], of(found, f"{KIND}.delta")) == ("", [])


def test_audio_that_was_cleared_is_not_heard():
    driver = driver_of({"model": "gpt-transcribe"}, listener=listener(), turn_detection=None)
    said(driver, caller_clip("bestellung-5"))
    driver.send("input_audio_buffer.clear")
    said(driver, silence(500))
    driver.send("input_audio_buffer.commit")
    assert one(driver.settle(), f"{KIND}.completed")["transcript"] == ""


async def test_a_client_has_a_turn_transcribed_over_a_socket():
    headers = {"Authorization": "Bearer any"}
    transcription = {"model": "gpt-live-transcribe", "languages": ["de"]}
    audio = {"input": {"format": {"type": "audio/pcmu"}, "transcription": transcription}}
    data = Law.PCMU.encode(caller_clip("bestellung-4"))
    async with serving(transcription_delay_ms=0) as rehearsal, aiohttp.ClientSession(headers=headers) as http:
        async with http.ws_connect(f"{rehearsal.base_url}/realtime?intent=transcription") as socket:
            assert (await socket.receive_json())["session"]["type"] == "transcription"
            await socket.send_json({"type": "session.update", "session": {"type": "transcription", "audio": audio}})
            for start in range(0, len(data), 1600):
                chunk = base64.b64encode(data[start : start + 1600]).decode()
                await socket.send_json({"type": "input_audio_buffer.append", "audio": chunk})
            await socket.send_json({"type": "input_audio_buffer.commit"})
            async with asyncio.timeout(5):
                while (event := await socket.receive_json())["type"] != f"{KIND}.completed":
                    assert event["type"] != "error"
        assert event["transcript"] == ORDER.turns[3].caller
        assert rehearsal.sessions.all()[0].scenario == "bestellung"


async def test_with_a_model_in_the_url_a_transcription_update_is_refused():
    async with serving() as rehearsal, aiohttp.ClientSession(headers={"Authorization": "Bearer any"}) as http:
        query = {"intent": "transcription", "model": "gpt-transcribe"}
        async with http.ws_connect(f"{rehearsal.base_url}/realtime", params=query) as socket:
            await socket.receive_json()
            await socket.send_json({"type": "session.update", "session": {"type": "transcription"}})
            assert (await socket.receive_json())["error"]["param"] == "session.type"
