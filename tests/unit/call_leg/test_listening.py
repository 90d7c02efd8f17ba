"""Who hears a call besides its two sides: leases, and a recorder that is sought until there is one."""

from libs.call_leg.listening import ASK_EVERY_S, AskRecorder, Listening, Tell


def test_a_tap_is_heard_while_its_lease_lives():
    listening = Listening()
    assert listening.lease("tap", 10.0, is_recorder=False) == []
    assert (listening.is_heard, listening.is_watched, listening.deadline()) == (True, True, 10.0)
    listening.lease("tap", 14.0, is_recorder=False)
    assert listening.expire(10.0) == []
    assert listening.is_heard
    assert listening.expire(14.0) == []
    assert (listening.is_heard, listening.deadline()) == (False, None)


def test_a_recorder_is_asked_for_every_second_until_one_listens():
    listening = Listening()
    assert listening.record(True, 0.0) == [AskRecorder()]
    assert listening.record(True, 0.1) == []
    assert listening.deadline() == ASK_EVERY_S
    assert listening.expire(ASK_EVERY_S) == [AskRecorder()]
    assert listening.lease("rec", 3.0, is_recorder=True) == [Tell("started", "rec")]
    assert listening.expire(2.0) == []
    assert (listening.is_heard, listening.is_watched) == (True, False)


def test_a_recorder_that_is_gone_is_followed_at_once():
    listening = Listening()
    listening.record(True, 0.0)
    listening.lease("rec1", 2.0, is_recorder=True)
    assert listening.expire(2.0) == [Tell("lost", "rec1"), AskRecorder()]
    assert listening.lease("rec2", 4.0, is_recorder=True) == [Tell("started", "rec2")]
    assert listening.keeps("rec2")
    assert not listening.keeps("rec1")


def test_a_second_recorder_and_one_that_nobody_asked_for_are_sent_away():
    listening = Listening()
    assert listening.lease("rec1", 2.0, is_recorder=True) == []
    assert not listening.keeps("rec1")
    assert not listening.is_heard
    listening.record(True, 0.0)
    listening.lease("rec1", 2.0, is_recorder=True)
    assert listening.lease("rec2", 2.0, is_recorder=True) == []
    assert not listening.keeps("rec2")


def test_a_recording_that_is_stopped_lets_its_recorder_go():
    listening = Listening()
    listening.record(True, 0.0)
    listening.lease("rec", 2.0, is_recorder=True)
    listening.lease("tap", 9.0, is_recorder=False)
    assert listening.record(False, 1.0) == [Tell("stopped", "rec")]
    assert not listening.keeps("rec")
    assert listening.is_heard
    assert listening.record(False, 1.0) == []
    assert listening.record(True, 1.5) == [AskRecorder()]
