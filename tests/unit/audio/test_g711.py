"""G.711 against tables derived here from the Recommendation, not from the code under test.

ITU-T G.711 tables 1a and 2a give, for positive values, decision values x_n and quantised values
y_n = (x_n + x_{n+1}) / 2. A-law is on a scale of 4096 (13 bits), mu-law on one of 8159 (14 bits). Character
signals: mu-law inverts all bits, A-law every even one (mask 0x55); the first bit is 1 for positive values.
"""

from itertools import accumulate

import numpy as np
import pytest

from libs.audio.compare import snr_db
from libs.audio.g711 import G711Error, Law
from libs.audio.tone import tone

# A-law: 2 segments of 16 steps of 2, then 6 segments with the step doubled each time (table 1a, columns 1-3).
A_STEPS = [2] * 32 + [step for step in (4, 8, 16, 32, 64, 128) for _ in range(16)]
# mu-law: one step of 1, 15 of 2, then 7 segments of 16 steps, doubled each time (table 2a).
MU_STEPS = [1] + [2] * 15 + [step for step in (4, 8, 16, 32, 64, 128, 256) for _ in range(16)]
A_DECISIONS = [0, *accumulate(A_STEPS)]
MU_DECISIONS = [0, *accumulate(MU_STEPS)]
EVERY_SAMPLE = np.arange(-32768, 32768)
EVERY_BYTE = bytes(range(256))


def test_derived_tables_have_the_end_points_of_the_recommendation():
    assert (len(A_STEPS), A_DECISIONS[-1], len(MU_STEPS), MU_DECISIONS[-1]) == (128, 4096, 128, 8159)
    assert MU_DECISIONS[112] == 4063
    assert A_DECISIONS[112] == 2048


def quantised_16_bit(law, number):
    if law is Law.PCMA:
        return (A_DECISIONS[number] + A_DECISIONS[number + 1]) * 8 // 2
    if number == 0:
        return 0  # table 2a: y_0 = 0
    return (MU_DECISIONS[number] + MU_DECISIONS[number + 1]) * 4 // 2


def character(law, number, positive):
    code = number | (0x80 if positive else 0)
    return code ^ 0x55 if law is Law.PCMA else code ^ 0x7F


def expected_decoding(law):
    return {
        character(law, number, positive): quantised_16_bit(law, number) * (1 if positive else -1)
        for number in range(128)
        for positive in (True, False)
    }


@pytest.mark.parametrize("law", Law)
def test_all_256_characters_decode_to_the_values_of_the_recommendation(law):
    expected = expected_decoding(law)
    assert len(expected) == 256
    assert np.frombuffer(law.decode(EVERY_BYTE), "<i2").tolist() == [expected[byte] for byte in range(256)]


@pytest.mark.parametrize("law", Law)
def test_all_65536_samples_encode_to_the_interval_they_lie_in(law):
    # Uniform PCM of 13 and 14 bits is what the Recommendation compands; the bits below are cut off.
    if law is Law.PCMA:
        uniform, decisions = EVERY_SAMPLE >> 3, A_DECISIONS
        magnitude = np.where(uniform >= 0, uniform, -uniform - 1)  # no zero: intervals are mirrored between 0 and -1
    else:
        uniform, decisions = EVERY_SAMPLE >> 2, MU_DECISIONS
        magnitude = np.abs(uniform)
    numbers = np.minimum(np.searchsorted(decisions, magnitude, side="right") - 1, 127)
    expected = bytes(
        character(law, int(number), bool(value >= 0)) for number, value in zip(numbers, uniform, strict=True)
    )
    assert law.encode(EVERY_SAMPLE.astype("<i2").tobytes()) == expected


@pytest.mark.parametrize("law", Law)
def test_error_of_every_sample_is_at_most_half_its_step_and_the_bits_cut_off(law):
    pcm = EVERY_SAMPLE.astype("<i2").tobytes()
    decoded = np.frombuffer(law.decode(law.encode(pcm)), "<i2").astype(int)
    inside = np.abs(EVERY_SAMPLE) < 32124  # above, mu-law clips
    bound = np.maximum(np.abs(EVERY_SAMPLE) / 32, 8) + 8
    assert (np.abs(decoded - EVERY_SAMPLE) <= bound)[inside].all()


@pytest.mark.parametrize("law", Law)
def test_second_coding_is_lossless(law):
    once = law.decode(law.encode(EVERY_SAMPLE.astype("<i2").tobytes()))
    assert law.decode(law.encode(once)) == once


@pytest.mark.parametrize(("law", "payload_type", "silence"), [(Law.PCMU, 0, 0xFF), (Law.PCMA, 8, 0xD5)])
def test_names_and_numbers_are_those_of_rfc_3551(law, payload_type, silence):
    assert (law.payload_type, law.encoding_name, law.silence) == (payload_type, law.name, bytes([silence]))
    assert abs(int.from_bytes(law.decode(law.silence), "little", signed=True)) <= 8
    assert Law(payload_type) is law


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("dbfs", [-3.1, -10.0, -20.0, -30.0])
def test_a_tone_keeps_the_signal_to_noise_ratio_that_8_bits_can_hold(law, dbfs):
    sent = tone(1004, 1000, 8000, dbfs)
    assert snr_db(sent, law.decode(law.encode(sent))) > 35.5  # theory: about 38 dB at best


@pytest.mark.parametrize("law", Law)
def test_reading_one_law_as_the_other_is_noticed(law):
    other = Law.PCMA if law is Law.PCMU else Law.PCMU
    sent = tone(1004, 200, 8000)
    assert snr_db(sent, other.decode(law.encode(sent))) < 6


def test_half_a_sample_is_an_error():
    with pytest.raises(G711Error, match="3 bytes are not a whole number"):
        Law.PCMU.encode(b"abc")
