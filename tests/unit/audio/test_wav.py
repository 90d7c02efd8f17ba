import contextlib
import io
import struct
import wave

import pytest
from hypothesis import given, strategies as st

from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.audio.wav import Wav, WavError, read_wav, wav_header, write_wav

PCM = tone(440, 100, 8000)


def riff(*chunks):
    body = b"WAVE" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(tag, bits, channels=1, rate_hz=8000, extra=b""):
    frame = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * frame, frame, bits) + extra


def test_what_is_written_the_standard_library_reads():
    with wave.open(io.BytesIO(write_wav(PCM, 24000, channels=2))) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (24000, 2, 2)
        assert reader.readframes(10**6) == PCM


def test_what_the_standard_library_writes_is_read_from_bytes_and_from_a_file():
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16000)
        writer.writeframes(PCM)
    assert read_wav(file.getvalue()) == read_wav(io.BytesIO(file.getvalue())) == Wav(PCM, 16000, 1)
    assert Wav(PCM, 8000, 1).duration_ms == 100


@pytest.mark.parametrize(("tag", "law"), [(6, Law.PCMA), (7, Law.PCMU)])
def test_g711_is_decoded(tag, law):
    payload = law.encode(PCM)
    assert read_wav(riff(fmt(tag, 8, extra=b"\0\0"), (b"data", payload))) == Wav(law.decode(payload), 8000, 1)


def test_other_chunks_extensible_format_and_a_cut_end_are_taken():
    extensible = struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    wav = riff((b"LIST", b"odd"), fmt(0xFFFE, 16, extra=extensible), (b"data", PCM))
    assert read_wav(wav) == Wav(PCM, 8000, 1)
    assert read_wav(wav[:-3]).pcm == PCM[:-4]


def test_stream_of_unknown_length_is_read_to_its_end():
    assert read_wav(wav_header(8000) + PCM) == Wav(PCM, 8000, 1)
    assert wav_header(8000, 1, len(PCM)) + PCM == write_wav(PCM, 8000)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "data does not begin with a RIFF/WAVE header"),
        (b"OggS" + bytes(40), "data does not begin with a RIFF/WAVE header"),
        (riff(fmt(1, 16)), "there is no data chunk"),
        (riff((b"data", PCM)), "data chunk comes before the fmt chunk"),
        (riff((b"fmt ", b"short"), (b"data", PCM)), "fmt chunk has 5 bytes, needs at least 16"),
        (riff(fmt(3, 32), (b"data", PCM)), "format tag 3 is neither PCM (1) nor A-law (6) nor mu-law (7)"),
        (riff(fmt(1, 24), (b"data", PCM)), "format tag 1 with 24 bits per sample, only 16 are read"),
        (riff(fmt(1, 16, rate_hz=0), (b"data", PCM)), "fmt chunk says 1 channels at 0 Hz"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_precise_sentence(data, sentence):
    with pytest.raises(WavError) as caught:
        read_wav(data)
    assert str(caught.value) == sentence


@given(st.binary(max_size=60), st.integers(0, 60))
def test_damaged_files_are_read_or_refused(noise, at):
    data = bytearray(write_wav(PCM, 8000))
    data[at : at + len(noise)] = noise
    with contextlib.suppress(WavError):
        read_wav(bytes(data))
