import pytest

from libs.audio.codec import CODECS, codec_named
from libs.audio.compare import best_correlation, snr_db
from libs.audio.g711 import Law
from libs.audio.g722 import G722, G722Error
from libs.audio.level import dbfs
from libs.audio.tone import tone

SPEECH = tone(440, 400, 16_000) + tone(3000, 400, 16_000) + tone(6000, 400, 16_000, -20)


def through(pcm: bytes, frame_bytes: int = 640) -> bytes:
    encoder, decoder = G722.encoder(), G722.decoder()
    frames = (pcm[start : start + frame_bytes] for start in range(0, len(pcm), frame_bytes))
    return b"".join(decoder.decode(encoder.encode(frame)) for frame in frames)


def test_20_ms_of_16_khz_are_160_bytes():
    assert len(G722.encoder().encode(tone(440, 20, 16_000))) == 160
    assert len(G722.decoder().decode(bytes(160))) == 640


@pytest.mark.parametrize(("hz", "least_db"), [(440, 20), (3000, 18), (6000, 10)])
def test_tones_come_out_as_they_went_in_up_to_7_khz(hz, least_db):
    pcm = tone(hz, 1000, 16_000)
    correlation, lag = best_correlation(pcm[3200:], through(pcm)[3200:], max_lag=64)
    assert correlation > 0.95
    assert abs(lag) < 40
    assert snr_db(pcm[3200:], through(pcm)[3200:]) > least_db


def test_what_narrowband_loses_is_kept():
    high = tone(6000, 400, 16_000)
    assert dbfs(through(high)[1600:]) == pytest.approx(dbfs(high), abs=1)


def test_a_stream_may_be_cut_anywhere():
    assert through(SPEECH, 640) == through(SPEECH, 320) == through(SPEECH, len(SPEECH))


def test_silence_is_encoded_in_the_state_of_the_stream():
    encoder, decoder = G722.encoder(), G722.decoder()
    decoder.decode(encoder.encode(tone(440, 200, 16_000)))
    silent = b"".join(decoder.decode(encoder.silence_frame()) for _ in range(10))
    assert dbfs(silent[1280:]) < -65


def test_streams_do_not_share_state():
    one, other = G722.encoder(), G722.encoder()
    one.encode(SPEECH)
    assert other.encode(SPEECH[:640]) == G722.encoder().encode(SPEECH[:640])


def test_half_a_pair_of_samples_is_an_error():
    with pytest.raises(G722Error, match="322 bytes"):
        G722.encoder().encode(bytes(322))
    assert (G722.encoder().encode(b""), G722.decoder().decode(b"")) == (b"", b"")


def test_codecs_are_found_by_their_name_in_sdp():
    assert codec_named("pcma") is Law.PCMA
    assert codec_named("G722") is G722
    assert {name: codec.payload_type for name, codec in CODECS.items()} == {"PCMU": 0, "PCMA": 8, "G722": 9}
    with pytest.raises(ValueError, match="'opus' is none of PCMU, PCMA, G722"):
        codec_named("opus")


@pytest.mark.parametrize("codec", CODECS.values())
def test_a_frame_of_silence_is_as_long_as_a_frame(codec):
    silent = codec.encoder().silence_frame()
    assert len(silent) == 160
    assert len(codec.decoder().decode(silent)) == 2 * codec.rate_hz // 50
    assert dbfs(codec.decoder().decode(silent)) < -65
