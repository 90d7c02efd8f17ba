"""How the audio of streams that ended was, on the metrics page."""

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from libs.contracts.media import MediaStatistics
from services.sip_gateway.quality import observe, reported
from tests.unit.sip_gateway.media import SPEECH, Line, packet

NAMES = [
    "callbus_rtp_jitter_seconds",
    "callbus_rtp_loss_ratio",
    "callbus_rtcp_remote_jitter_seconds",
    "callbus_rtcp_remote_loss_ratio",
    "callbus_rtcp_round_trip_seconds",
]


def page() -> dict[tuple[str, str], float]:
    """The samples of the histograms, by name and upper bound."""
    families = text_string_to_metric_families(generate_latest(REGISTRY).decode())
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in families
        if family.name in NAMES
        for sample in family.samples
    }


def grown(media: MediaStatistics) -> dict[tuple[str, str], float]:
    """Of a stream that ended, and of the one report that the peer made of it."""
    before = page()
    observe(media)
    reported(media.remote_jitter_ms, media.round_trip_ms)
    return {key: round(value - before[key], 6) for key, value in page().items() if value != before[key]}


def test_jitter_loss_and_round_trip_of_both_directions_are_in_base_units():
    new = grown(
        MediaStatistics(
            rtp_received=985, rtp_lost=15, rtp_jitter_ms=7.5, rtp_sent=1000, remote_lost=3,
            remote_fraction_lost=0.5, remote_jitter_ms=12.0, round_trip_ms=120.0,
        )
    )  # fmt: skip
    sums = {name.removesuffix("_sum"): value for (name, _), value in new.items() if name.endswith("_sum")}
    assert sums == dict(zip(NAMES, (0.0075, 0.015, 0.012, 0.003, 0.12), strict=True))
    assert all(new[name + "_count", ""] == 1 for name in NAMES)
    assert ("callbus_rtp_jitter_seconds_bucket", "0.005") not in new
    assert new["callbus_rtp_jitter_seconds_bucket", "0.01"] == 1
    assert ("callbus_rtp_loss_ratio_bucket", "0.01") not in new
    assert new["callbus_rtp_loss_ratio_bucket", "0.02"] == 1


def test_what_nobody_reported_is_left_out():
    assert grown(MediaStatistics()) == {}
    assert {name for name, _ in grown(MediaStatistics(rtp_received=100))} == {
        "callbus_rtp_loss_ratio_bucket", "callbus_rtp_loss_ratio_count"
    }  # fmt: skip


def test_packets_that_arrived_twice_are_no_loss():
    new = grown(MediaStatistics(rtp_sent=100, remote_lost=-4))
    assert new["callbus_rtcp_remote_loss_ratio_bucket", "0.0"] == 1


def test_a_session_is_counted_when_it_ends():
    line = Line()
    before = page()
    line.rtp.answered(line.now)
    for number in (0, 1, 3, 4):
        line.send(packet(number, SPEECH))
        line.pass_time(20)
    line.pass_time(200)  # the gap is given up
    line.rtp.finish(line.now)
    after = page()
    assert after["callbus_rtp_loss_ratio_count", ""] == before["callbus_rtp_loss_ratio_count", ""] + 1
    assert round(after["callbus_rtp_loss_ratio_sum", ""] - before["callbus_rtp_loss_ratio_sum", ""], 3) == 0.2
    line.close()
