from libs.audio.g711 import Law
from libs.audio.rtp import RtpPacket
from libs.softphone.heard import Timeline

LOUD = Law.PCMU.encode(b"\x00\x40" * 160)


def packet(number: int, timestamp: int | None = None, ssrc: int = 1, payload_type: int = 0, marker=False) -> RtpPacket:
    stamp = number * 160 if timestamp is None else timestamp
    return RtpPacket(payload_type, number & 0xFFFF, stamp & 0xFFFFFFFF, ssrc, LOUD, marker)


def timeline(*packets: RtpPacket, interval_s: float = 0.02) -> Timeline:
    heard = Timeline({0: Law.PCMU})
    for number, each in enumerate(packets):
        heard.push(each, 100 + number * interval_s)
    return heard


def loud(heard: Timeline) -> list[bool]:
    """One entry per 20 ms of the timeline."""
    return [heard.pcm[start : start + 2] != b"\0\0" for start in range(0, len(heard.pcm), 320)]


def test_audio_lies_where_its_timestamp_says_and_gaps_are_silence():
    heard = timeline(packet(5), packet(6), packet(7, 9 * 160, marker=True))
    assert loud(heard) == [True, True, False, False, True]
    assert heard.stats.lost == 0
    assert heard.stats.markers == [640]
    assert [p.position_samples for p in heard.packets] == [0, 160, 640]


def test_lost_late_and_doubled_packets_are_counted():
    heard = timeline(packet(1), packet(2), packet(4), packet(3), packet(3), packet(6))
    assert loud(heard) == [True, True, True, True, False, True]
    stats = heard.stats
    assert (stats.packets, stats.lost, stats.out_of_order, stats.duplicates) == (6, 1, 1, 1)


def test_both_counters_roll_over():
    heard = timeline(*(packet(number, number * 160 - 65535 * 160 - 160) for number in range(65533, 65540)))
    assert loud(heard) == [True] * 7
    assert heard.stats.lost == 0


def test_a_new_ssrc_is_placed_by_its_time_of_arrival():
    heard = timeline(packet(1), packet(900, 12345, ssrc=2), packet(901, 12505, ssrc=2), interval_s=0.06)
    assert loud(heard) == [True, False, False, True, True]
    assert heard.stats.ssrc_changes == 1
    assert heard.stats.lost == 0


def test_a_jump_of_the_clock_does_not_grow_the_timeline():
    heard = timeline(packet(1), packet(2, 2**31 - 5), packet(3, 2**31 + 155))
    assert loud(heard) == [True, True, True]


def test_other_payload_types_are_counted_and_not_decoded():
    heard = timeline(packet(1), packet(2, payload_type=101))
    assert heard.stats.other_payload == 1
    assert len(heard.pcm) == 320


def test_interarrival_times_are_kept():
    heard = timeline(packet(1), packet(2), packet(3))
    assert [round(ms) for ms in heard.stats.interarrival_ms] == [20, 20]
    assert heard.stats.first_packet_at == 100


def test_the_timeline_is_bounded():
    heard = Timeline({0: Law.PCMU}, max_s=0.04)
    for number in range(5):
        heard.push(packet(number), 100.0)
    assert len(heard.pcm) == 2 * 320
