"""Who lives and who takes the next call; silence is evidence only on a sound link (R3, R5)."""

import pytest

from libs.call_leg.roster import LATE_TICK_S, SETTLE_S, SILENT_AFTER_S, Gone, Roster

T0 = 100.0


def roster(**workers):
    made = Roster()
    made.link_up(T0 - 10)
    for wk, capacity in workers.items():
        beat(made, wk, T0, capacity=capacity)
    return made


def beat(made, wk, now, calls=0, capacity=5, draining=False):
    made.heartbeat(wk, now, calls=calls, capacity=capacity, draining=draining)


# -- silence (R3) ---------------------------------------------------------------------------------------------


def test_a_silent_worker_is_judged_after_350_ms_and_not_before():
    made = roster(a=5, b=5)
    beat(made, "b", T0 + 0.3)
    assert made.deadline() == T0 + SILENT_AFTER_S == T0 + 0.35
    assert made.expire(T0 + 0.34) == []
    assert made.expire(T0 + 0.35 + 1e-9) == [Gone("a", "silent")]
    assert (made.is_alive("a"), made.is_alive("b"), len(made)) == (False, True, 1)


def test_while_our_own_link_is_down_nobody_is_judged():
    made = roster(a=5)
    made.link_down()
    assert made.deadline() is None
    assert made.expire(T0 + 60) == []
    assert made.is_alive("a")


def test_nobody_is_judged_within_500_ms_of_our_own_reconnection():
    made = roster(a=5, b=5)
    made.link_down()
    made.link_up(T0 + 0.6)
    assert made.deadline() == T0 + 0.6 + SETTLE_S
    assert made.expire(T0 + 1.05) == []
    beat(made, "a", T0 + 1.0)
    assert made.expire(T0 + 1.1) == [Gone("b", "silent")]  # a real death meanwhile is judged after that


def test_our_own_stall_says_nothing_about_the_others():
    made = roster(a=5)
    made.ticked(0.6, T0 + 0.6)
    assert made.expire(T0 + 0.6) == []
    assert made.deadline() == T0 + 0.6 + SETTLE_S
    assert made.expire(T0 + 1.1) == [Gone("a", "silent")]
    assert made.counters["own_stall"] == 1


def test_a_tick_that_is_late_by_less_than_100_ms_is_no_stall():
    made = roster(a=5)
    made.ticked(LATE_TICK_S - 0.001, T0 + 0.3)
    assert made.expire(T0 + 0.4) == [Gone("a", "silent")]


def test_a_roster_that_never_had_a_link_judges_nobody():
    made = Roster()
    beat(made, "a", T0)
    assert (made.deadline(), made.expire(T0 + 60), made.is_sound(T0 + 60)) == (None, [], False)


def test_a_frozen_worker_that_thaws_is_known_again():
    made = roster(a=5)
    made.expire(T0 + 1)
    beat(made, "a", T0 + 2)
    assert made.pick() == "a"
    assert made.counters["joined"] == 2


def test_an_empty_roster_has_no_deadline():
    assert roster().deadline() is None


# -- advisories (R5) --------------------------------------------------------------------------------------------


def test_a_worker_is_gone_at_once_when_both_its_connections_are():
    made = roster(a=5, b=5)
    assert made.disconnected("a-media", T0) == []
    assert made.is_alive("a")
    assert made.disconnected("a-control", T0 + 0.001) == [Gone("a", "gone")]
    assert (made.is_alive("a"), made.is_alive("b")) == (False, True)


@pytest.mark.parametrize("connection", ["media", "control"])
def test_one_lost_connection_is_no_death_however_often(connection):
    made = roster(a=5)
    assert [made.disconnected(f"a-{connection}", T0 + n / 10) for n in range(5)] == [[]] * 5


def test_advisories_far_apart_are_two_blips():
    made = roster(a=5)
    made.disconnected("a-media", T0)
    assert made.disconnected("a-control", T0 + 2.1) == []
    assert made.disconnected("a-media", T0 + 2.2) == [Gone("a", "gone")]


def test_a_heartbeat_between_the_advisories_proves_that_control_is_back():
    made = roster(a=5)
    made.disconnected("a-control", T0)
    beat(made, "a", T0 + 0.05)
    assert made.disconnected("a-media", T0 + 0.1) == []


def test_a_heartbeat_after_medias_advisory_does_not_hide_the_death():
    made = roster(a=5)
    made.disconnected("a-media", T0)
    beat(made, "a", T0 + 0.001)
    assert made.disconnected("a-control", T0 + 0.002) == [Gone("a", "gone")]


@pytest.mark.parametrize("name", ["", "a", "media", "-media", "a-other", "x-media", "some tool", "a-media-control"])
def test_advisories_of_other_clients_are_ignored(name):
    made = roster(a=5)
    assert made.disconnected(name, T0) + made.disconnected(name, T0) == []


def test_process_ids_with_hyphens_are_recognised():
    made = Roster()
    beat(made, "wk-01ja", T0)
    made.disconnected("wk-01ja-control", T0)
    assert made.disconnected("wk-01ja-media", T0) == [Gone("wk-01ja", "gone")]


# -- choice -----------------------------------------------------------------------------------------------------


def test_the_worker_with_the_most_room_takes_the_call():
    made = roster(a=3, b=8, c=5)
    beat(made, "b", T0, calls=6, capacity=8)
    assert made.pick() == "c"
    assert made.pick({"c"}) == "a"
    assert made.pick({"c", "a"}) == "b"
    assert made.pick({"c", "a", "b"}) is None


def test_equal_room_is_decided_the_same_way_each_time():
    made = roster(a=5, c=5, b=5)
    assert made.pick() == "c"


def test_a_full_or_draining_worker_takes_none():
    made = roster(a=1, b=5)
    beat(made, "a", T0, calls=1, capacity=1)
    beat(made, "b", T0, draining=True)
    assert made.pick() is None


def test_offers_count_as_load_until_the_next_heartbeat():
    made = roster(a=2)
    made.offered("a")
    made.offered("a")
    assert made.pick() is None
    beat(made, "a", T0 + 0.1, calls=1, capacity=2)
    assert made.pick() == "a"


def test_two_calls_within_a_heartbeat_go_to_two_workers():
    made = roster(a=5, b=5)
    first = made.pick()
    made.offered(first)
    assert {first, made.pick()} == {"a", "b"}


def test_an_offer_to_a_worker_that_is_gone_is_not_counted():
    made = roster()
    made.offered("a")
    assert made.pick() is None


def test_a_broker_that_hangs_condemns_nobody_and_who_died_meanwhile_is_judged_once_it_is_back():
    made = roster(a=5, b=5)
    made.echoed(T0 + 0.09)
    assert made.expire(T0 + SILENT_AFTER_S) == [], "nothing came through, our own heartbeats neither"
    assert made.deadline() > T0 + SILENT_AFTER_S, "no busy waiting"
    assert made.expire(T0 + 1.9) == []
    back = T0 + 2
    made.echoed(back)
    assert made.expire(back) == [], "the others' heartbeats come behind ours"
    for tenth in range(1, 5):
        made.echoed(back + tenth / 10)
        beat(made, "b", back + tenth / 10)
        assert made.expire(back + tenth / 10) == []
    made.echoed(back + SETTLE_S)
    assert made.expire(back + SETTLE_S) == [Gone("a", "silent")]
