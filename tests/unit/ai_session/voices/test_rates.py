from __future__ import annotations

import numpy as np
import pytest

from libs.audio.g711 import Law
from libs.audio.level import dbfs
from libs.audio.tone import tone
from services.ai_session.voices.any_rate import converted
from services.ai_session.voices.pcm_stream import PcmStream


def sine(hz: float, rate_hz: int, seconds: float = 1.0) -> bytes:
    at = np.arange(int(rate_hz * seconds)) / rate_hz
    return np.rint(10_000 * np.sin(2 * np.pi * hz * at)).astype("<i2").tobytes()


@pytest.mark.parametrize("out_hz", [8000, 16_000, 24_000])
def test_a_recording_at_a_computers_rate_sounds_the_same_at_a_telephones(out_hz):
    result = np.frombuffer(converted(sine(1000, 22_050), 22_050, out_hz), "<i2").astype(float)
    wanted = np.frombuffer(sine(1000, out_hz), "<i2").astype(float)
    assert len(result) == len(wanted)
    middle = slice(100, -100)
    error = np.sqrt(np.mean((result[middle] - wanted[middle]) ** 2))
    assert error < 7071 / 1000  # 60 dB below the tone


def test_what_a_telephone_cannot_carry_is_gone_and_not_folded_down():
    assert dbfs(converted(sine(4600, 22_050), 22_050, 8000)[200:-200]) < -70


def test_short_and_empty_recordings_have_a_length_too():
    assert converted(b"", 22_050, 8000) == b""
    assert len(converted(bytes(2 * 3), 22_050, 8000)) == 2
    assert converted(b"ab", 8000, 8000) == b"ab"


@pytest.mark.parametrize("chunk_bytes", [1, 3, 1111, 100_000])
def test_the_way_a_stream_is_cut_changes_nothing(chunk_bytes):
    pcm = tone(440, 200, 24_000, -12)
    whole, cut = PcmStream(24_000, 8000), PcmStream(24_000, 8000)
    wanted = whole.feed(pcm) + whole.end()
    parts = [cut.feed(pcm[at : at + chunk_bytes]) for at in range(0, len(pcm), chunk_bytes)]
    assert b"".join(parts) + cut.end() == wanted
    assert all(len(part) % 2 == 0 for part in parts)
    assert cut.seconds == whole.seconds


def test_half_a_sample_at_the_end_is_no_sound():
    stream = PcmStream(8000, 8000)
    assert stream.feed(b"abc") == b"ab"
    assert stream.end() == b""


def test_mu_law_is_decoded():
    pcm = tone(440, 100, 8000, -12)
    stream = PcmStream(8000, 8000, Law.PCMU)
    assert stream.feed(Law.PCMU.encode(pcm)) == Law.PCMU.decode(Law.PCMU.encode(pcm))
    assert stream.seconds == pytest.approx(0.1)
