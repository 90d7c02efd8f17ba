"""A gateway's metrics: offers, losses and successors by cause, the bus's way, audio of ended and live calls."""

import nats.errors
import pytest

from libs.call_leg import instruments
from libs.call_leg.instruments import CLAIM, ENDED, LOST, OFFER, RECLAIM, SETUP, TALKED, CallClock, MediaTotals
from libs.contracts.media import MediaStatistics
from libs.contracts.offer import OfferReply
from libs.contracts.termination import RESULT_OF, Reason


def seen(metric, *key):
    """How often a histogram was fed, and the sum of it."""
    series = metric.series(key)
    return sum(series.counts), series.total


class Grown:
    """What a histogram got since here."""

    def __init__(self, metric, *key):
        self.metric, self.key = metric, key
        self.before = seen(metric, *key)

    def __call__(self):
        count, total = seen(self.metric, *self.key)
        return count - self.before[0], round(total - self.before[1], 6)


def test_the_times_of_a_call_go_by_cause():
    first, failover = Grown(CLAIM, "first"), Grown(CLAIM, "failover")
    reclaim, setup, talked = Grown(RECLAIM, "silent"), Grown(SETUP, "inbound"), Grown(TALKED, "inbound")
    lost, ended = LOST.values()["silent",], ENDED.values().get(("inbound", "sip", "success", "caller_hung_up"), 0)
    clock = CallClock("inbound", "sip", 100.0)
    clock.claimed("first", 100.2)
    clock.answered(100.5)
    clock.heard_again(100.5)  # nobody was lost
    clock.lost("silent", 130.0)
    clock.claimed("failover", 130.1)
    clock.heard_again(130.4)
    clock.heard_again(140.0)  # the end of a hold
    clock.ended("success", "caller_hung_up", 60.0)
    assert (first(), failover()) == ((1, 0.2), (1, 0.1))
    assert (reclaim(), setup(), talked()) == ((1, 0.4), (1, 0.5), (1, 60.0))
    assert LOST.values()["silent",] == lost + 1
    assert ENDED.values()["inbound", "sip", "success", "caller_hung_up"] == ended + 1


def test_an_end_is_shown_before_a_call_comes_to_it():
    instruments.show_ends("twilio")
    shown = {key for key in ENDED.values() if key[1] == "twilio"}
    assert shown == {(way, "twilio", RESULT_OF[why], why) for way in ("inbound", "outbound") for why in Reason}


def test_a_call_that_was_not_answered_has_no_length():
    talked = Grown(TALKED, "outbound")
    CallClock("outbound", "sip", 0.0).ended("client", "callee_busy", 0.0)
    assert talked() == (0, 0)


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (OfferReply(accepted=True, wk="wk-1", epoch=1), "accepted"),
        (OfferReply(accepted=False, wk="wk-1", epoch=1, reason="full"), "refused"),
        (nats.errors.NoRespondersError(), "nobody"),
        (nats.errors.TimeoutError(), "silent"),
        (OSError("gone"), "failed"),
    ],
)
async def test_an_offer_is_timed_by_its_answer(outcome, answer):
    async def request():
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.to_json()

    grown = Grown(OFFER, answer)
    if isinstance(outcome, Exception):
        with pytest.raises(type(outcome)):
            await instruments.answered(request())
    else:
        assert await instruments.answered(request()) == outcome
    assert grown()[0] == 1


def test_an_echo_tells_how_long_the_bus_takes_and_nonsense_tells_nothing():
    grown = Grown(instruments.ONE_WAY)
    instruments.echoed("12.5", 12.502)
    for nonsense in (None, "", "soon"):
        instruments.echoed(nonsense, 13.0)
    assert grown() == (1, 0.002)


def test_audio_of_ended_and_live_calls_is_one_sum_that_never_goes_back():
    ended, live = {"rtp_received": 100}, [MediaStatistics(rtp_received=50, dn_played=10, dn_waiting=3)]
    totals = MediaTotals(lambda: ended, lambda: live)
    totals.export()

    def shown():
        totals.look()
        return (
            instruments.RTP.values()["received",],
            instruments.FRAMES.values()["down", "played"],
            instruments.RING.values()[()],
        )

    assert shown() == (150, 10, 3)
    left = live.pop()
    assert shown() == (150, 10, 0)  # in neither sum, for a moment
    ended.update(rtp_received=100 + left.rtp_received, dn_played=10)
    assert shown() == (150, 10, 0)
    live.append(MediaStatistics(rtp_received=5))
    assert shown()[0] == 155


def test_the_deepest_queue_is_shown_beside_the_sum():
    totals = MediaTotals(dict, lambda: [MediaStatistics(dn_waiting=4), MediaStatistics(dn_waiting=9)])
    totals.export()
    totals.look()
    assert (instruments.RING.values()[()], instruments.DEEPEST.values()[()]) == (13, 9)


def test_every_count_of_the_statistics_is_shown_somewhere():
    shown = set(instruments._FRAMES)
    shown |= {f"rtp_{name}" for name in instruments._RTP} | {f"rtcp_{name}" for name in instruments._RTCP}
    assert set(MediaStatistics().counters()) - {"dn_waiting"} <= shown
