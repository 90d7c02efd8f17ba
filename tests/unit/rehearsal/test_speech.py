import base64
import json

import pytest

from libs.audio.g711 import Law
from libs.audio.level import dbfs, rms
from services.rehearsal.speech import CLIPS, ClipError, Speech, babble, encode, read_clip, read_index, write_clip
from services.rehearsal.speech_text import clip_name, sentences

from .driver import PCMU, Driver, of

CALLER = CLIPS / "caller"
CALLERS = json.loads((CALLER / "index.json").read_text("utf-8"))
FILES = [CLIPS / file for file in read_index(CLIPS).values()] + [CALLER / c["file"] for c in CALLERS.values()]


def test_sentences_end_at_full_stops_question_and_exclamation_marks():
    text = "Guten Tag.  Zehn T-Stücke, 22 Millimeter? Gut! Ja"
    assert sentences(text) == ["Guten Tag.", "Zehn T-Stücke, 22 Millimeter?", "Gut!", "Ja"]


def test_a_clip_is_found_however_its_umlauts_are_composed():
    assert clip_name("für") == clip_name("fu\u0308r")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_clip_is_loud_unclipped_and_without_silence_at_its_ends(path):
    pcm = read_clip(path)
    assert -22.5 < dbfs(pcm) < -15  # short, peaky words end below the aim of -18
    assert max(abs(int.from_bytes(pcm[i : i + 2], "little", signed=True)) for i in range(0, len(pcm), 2)) < 32000
    window = 2 * 8 * 60
    assert rms(pcm[:window]) > 60
    assert rms(pcm[-window:]) > 60


@pytest.mark.parametrize("name", sorted(CALLERS))
@pytest.mark.parametrize("silence_ms", [400, 500])
def test_a_callers_clip_is_exactly_one_turn(name, silence_ms):
    detection = {"type": "server_vad", "silence_duration_ms": silence_ms, "create_response": False}
    driver = Driver(session={"audio": {"input": PCMU["input"] | {"turn_detection": detection}}})
    audio = Law.PCMU.encode(read_clip(CALLER / CALLERS[name]["file"]) + bytes(16 * 700))
    for start in range(0, len(audio), 160):
        delta = base64.b64encode(audio[start : start + 160]).decode()
        driver.send("input_audio_buffer.append", audio=delta)
    assert len(of(driver.frames, "input_audio_buffer.speech_started")) == 1
    assert len(of(driver.frames, "input_audio_buffer.speech_stopped")) == 1


def test_unrecorded_text_without_a_synthesiser_is_noise_as_long_as_the_text():
    speech = Speech(synthesise=False)
    short, long = speech.pcm("Ein neuer Satz."), speech.pcm("Ein neuer Satz, der um einiges länger ist als der.")
    assert len(long) > 2 * len(short) > 0
    assert speech.pcm("Ein neuer Satz.") == short
    assert -22 < dbfs(short) < -15


def test_24_khz_audio_is_three_times_as_long_and_as_loud():
    pcm = babble("x" * 20)
    wide = encode(pcm, "audio/pcm")
    assert len(wide) == 3 * len(pcm)
    assert rms(wide) == pytest.approx(rms(pcm), rel=0.15)


def test_a_written_clip_is_read_back(tmp_path):
    path = tmp_path / "clip.wav"
    pcm = Law.PCMU.decode(bytes(range(255)))
    write_clip(path, pcm)
    assert read_clip(path) == pcm


def test_a_file_that_is_no_clip_is_named(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(b"RIFFxxxxWAVE")
    with pytest.raises(ClipError, match=r"clip\.wav"):
        read_clip(path)


def test_the_clips_stay_small():
    assert sum(path.stat().st_size for path in CLIPS.rglob("*")) < 3_000_000
