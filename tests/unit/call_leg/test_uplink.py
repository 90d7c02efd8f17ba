"""50 frames a second up, whatever the network does (R2)."""

import random

import pytest

from libs.call_leg.uplink import FRAME_S, LEAD_FRAMES, SLACK_FRAMES, Uplink

T0 = 1000.0


def run(arrivals, seconds, tick_s=0.02):
    """Frames at these times, a tick each 20 ms; the times at which frames went up."""
    uplink, up = Uplink(), []
    uplink.start(T0)
    inputs = [(at, True) for at in arrivals] + [(n * tick_s, False) for n in range(int(seconds / tick_s) + 1)]
    for at, is_frame in sorted(inputs):
        up += [at] * (uplink.admit(T0 + at) if is_frame else uplink.due(T0 + at))
    return uplink, up


def assert_50_a_second(up, seconds):
    for at in range(1, int(seconds) + 1):
        sent = sum(1 for each in up if each <= at)
        assert at * 50 - SLACK_FRAMES - 2 <= sent <= at * 50 + LEAD_FRAMES + 2


def test_a_steady_source_passes_untouched():
    uplink, up = run([n * 0.02 for n in range(500)], 10)
    assert not uplink.counters
    assert_50_a_second(up, 10)


def test_jitter_passes_untouched():
    dice = random.Random(1)
    uplink, up = run([n * 0.02 + dice.uniform(0, 0.05) for n in range(500)], 10)
    assert uplink.counters["overrun"] == 0
    assert uplink.counters["filled"] <= SLACK_FRAMES
    assert_50_a_second(up, 10)


@pytest.mark.parametrize("arrivals", [[], [n * 0.02 for n in range(50)]], ids=["never", "after a second"])
def test_silence_suppression_is_made_up(arrivals):
    uplink, up = run(arrivals, 10)
    assert_50_a_second(up, 10)
    assert uplink.counters["filled"] + len(arrivals) == len(up)


def test_loss_is_made_up():
    dice = random.Random(2)
    uplink, up = run([n * 0.02 for n in range(1000) if dice.random() > 0.3], 20)
    assert_50_a_second(up, 20)
    assert uplink.counters["filled"] > 200


def test_a_burst_after_a_stall_of_the_network_is_cut():
    arrivals = [n * 0.02 for n in range(100)] + [3.0] * 50 + [3 + n * 0.02 for n in range(350)]
    uplink, up = run(arrivals, 10)
    assert_50_a_second(up, 10)
    assert uplink.counters["overrun"] > 30


def test_after_a_stall_of_our_own_the_clock_is_caught_up_with_not_burst():
    uplink = Uplink()
    uplink.start(T0)
    assert uplink.due(T0 + 5) == 1
    assert uplink.counters["skipped"] == 250 - SLACK_FRAMES - 1
    assert uplink.due(T0 + 5 + 1.05 * FRAME_S) == 1
    assert uplink.due(T0 + 5 + 1.05 * FRAME_S) == 0


@pytest.mark.parametrize("drift", [0.99, 1.01])
def test_a_clock_that_drifts_stays_within_the_bounds(drift):
    _, up = run([n * 0.02 * drift for n in range(int(60 * 50 / drift))], 60)
    assert_50_a_second(up, 60)


def test_without_an_owner_nothing_goes_up():
    uplink = Uplink()
    assert (uplink.is_running, uplink.admit(T0), uplink.due(T0 + 9)) == (False, False, 0)
    uplink.start(T0)
    uplink.stop()
    assert (uplink.is_running, uplink.admit(T0), uplink.due(T0 + 9)) == (False, False, 0)
    assert uplink.counters["unowned"] == 2


def test_a_failover_begins_the_clock_anew():
    uplink = Uplink()
    uplink.start(T0)
    uplink.start(T0 + 10)
    assert uplink.due(T0 + 10.02) == 0
