"""The leg as scripts of (time, input) -> actions: each race of the call protocol (R1-R9) one test."""

import pytest

from libs.call_leg.actions import (
    Answer,
    Claimed,
    DropEntry,
    EndMedia,
    HangUpCaller,
    Lost,
    PublishEnded,
    Reject,
    SendOffer,
    SendRelease,
    SetFiller,
    SetMuted,
    StartMedia,
    StopUplink,
    TellAgent,
    WriteEntry,
)
from libs.call_leg.leg import DISOWN_AFTER_S, OVERTIME_S, SEEK_RETRY_S, Leg, LegConfig
from libs.call_leg.phase import Phase
from libs.call_leg.roster import Gone, Roster
from libs.call_leg.search import (
    FIRST_ATTEMPTS,
    OFFER_TIMEOUT_S,
    SEEK_LIMIT_S,
    SETUP_PATIENCE_S,
    STALLED_S,
    UNREAD_S,
)
from libs.contracts.commands import Failed, HandOver, HangUp, Mute, Ready, Record
from libs.contracts.termination import Reason, Termination

T0 = 100.0
W = WriteEntry()


class Call:
    """A leg, its roster, and a hand to move the clock. Workers are offered in the order `a`, `b`, `c`."""

    def __init__(self, workers="ab", **settings):
        self.now = T0
        self.roster = Roster()
        self.roster.link_up(0.0)
        self.room = {wk: 10 * (26 - ord(wk) + ord("a")) for wk in workers}
        for wk in workers:
            self.beat(wk)
        self.played = 0
        self.leg = Leg(LegConfig("c1", **settings), self.roster, lambda: self.played)

    def beat(self, wk, draining=False):
        self.roster.heartbeat(wk, self.now, calls=0, capacity=self.room.setdefault(wk, 5), draining=draining)

    def start(self):
        return self.leg.start(self.now)

    def accept(self, wk, epoch):
        return self.leg.offer_answered(wk, epoch, True, "", self.now)

    def refuse(self, wk, epoch):
        return self.leg.offer_answered(wk, epoch, False, "full", self.now)

    def command(self, command):
        return self.leg.command(command, self.now)

    def ready(self, epoch):
        return self.command(Ready(epoch=epoch))[1]

    def lose(self, wk, cause="gone"):
        self.roster._workers.pop(wk, None)
        return self.leg.worker_gone(Gone(wk, cause), self.now)

    def wait(self, seconds):
        self.now += seconds
        return self.leg.expire(self.now)

    def claimed(self):
        self.start()
        self.accept("a", 1)
        return self

    def talking(self):
        self.claimed()
        self.ready(1)
        return self


def ended(reason, duration_s=0.0, talk_s=0.0, detail=""):
    return [EndMedia(), PublishEnded(Termination.of(reason, detail), duration_s, talk_s), DropEntry()]


def reason_of(actions):
    [end] = [action for action in actions if isinstance(action, PublishEnded)]
    return end.termination.reason


# -- set-up ------------------------------------------------------------------------------------------------


def test_a_call_is_offered_claimed_answered():
    call = Call()
    assert call.start() == [SendOffer("a", 1, "first"), W]
    assert call.accept("a", 1) == [Claimed("a", 1), StartMedia("a", 1), W]
    assert call.ready(1) == [Answer(), W]
    assert call.leg.phase is Phase.TALKING


def test_the_caller_hears_no_answer_before_the_worker_is_ready():
    call = Call()
    actions = call.start() + call.accept("a", 1)
    assert Answer() not in actions


def test_a_refused_offer_goes_to_the_next_worker_in_a_new_epoch():
    call = Call()
    call.start()
    assert call.refuse("a", 1) == [SendOffer("b", 2, "retry"), W]


def test_an_offer_without_answer_for_80_ms_is_taken_back_and_goes_to_the_next():
    call = Call()
    call.start()
    assert call.leg.deadline() == T0 + OFFER_TIMEOUT_S == T0 + 0.08
    assert call.wait(0.079) == []
    assert call.wait(0.002) == [SendRelease("a", 1), SendOffer("b", 2, "retry"), W]


def test_a_stall_of_our_own_is_no_silence_of_the_worker():
    call = Call()
    call.start()
    assert call.wait(OFFER_TIMEOUT_S + STALLED_S + 0.001) == []  # its answer may lie unread
    assert call.leg.deadline() == call.now + UNREAD_S
    assert call.accept("a", 1) == [Claimed("a", 1), StartMedia("a", 1), W]


def test_a_stall_of_our_own_does_not_make_us_wait_for_ever():
    call = Call()
    call.start()
    assert call.wait(OFFER_TIMEOUT_S + STALLED_S + 0.001) == []
    assert call.wait(UNREAD_S + STALLED_S + 0.001) == [SendRelease("a", 1), SendOffer("b", 2, "retry"), W]
    assert call.wait(OFFER_TIMEOUT_S + STALLED_S + 0.001) == []


def test_an_offer_that_nobody_listens_to_goes_to_the_next():
    call = Call()
    call.start()
    assert call.leg.offer_failed("a", 1, "no responders", T0) == [SendRelease("a", 1), SendOffer("b", 2, "retry"), W]
    assert call.leg.offer_failed("a", 1, "time-out of the same request", T0) == []


def test_an_acceptance_that_comes_after_the_next_offer_is_released_never_claimed():
    call = Call()
    call.start()
    call.wait(0.08)
    assert call.accept("a", 1) == [SendRelease("a", 1)]
    assert call.accept("b", 2) == [Claimed("b", 2), StartMedia("b", 2), W]


def test_an_acceptance_that_comes_after_another_was_accepted_is_released():
    call = Call()
    call.start()
    call.wait(0.08)
    call.accept("b", 2)
    assert call.accept("a", 1) == [SendRelease("a", 1)]
    assert (call.leg.wk, call.leg.epoch, call.leg.phase) == ("b", 2, Phase.CLAIMED)


def test_an_acceptance_that_comes_after_the_hang_up_is_released():
    call = Call()
    call.start()
    call.leg.caller_gone(Reason.CALLER_CANCELLED, T0)
    assert call.accept("a", 1) == [SendRelease("a", 1)]


def test_an_acceptance_that_comes_twice_does_not_take_the_call_from_its_owner():
    call = Call().claimed()
    assert call.accept("a", 1) == []
    call.ready(1)
    assert call.accept("a", 1) == []


def test_a_late_refusal_changes_nothing():
    call = Call()
    call.start()
    call.wait(0.08)
    assert call.refuse("a", 1) == []
    assert (call.leg.wk, call.leg.phase) == ("b", Phase.OFFERING)


def test_an_acceptance_of_the_present_epoch_from_another_worker_is_released():
    call = Call()
    call.start()
    assert call.accept("b", 1) == [SendRelease("b", 1)]


def test_before_the_answer_each_worker_is_tried_once_and_three_at_most():
    call = Call("abcd")
    call.start()
    assert call.refuse("a", 1)[0] == SendOffer("b", 2, "retry")
    assert call.refuse("b", 2)[0] == SendOffer("c", 3, "retry")
    assert FIRST_ATTEMPTS == 3
    assert reason_of(call.refuse("c", 3)) is Reason.NO_WORKER


def test_a_worker_that_refused_is_not_asked_again_when_the_next_one_dies():
    call = Call("ab")
    call.start()
    call.refuse("a", 1)
    assert reason_of(call.lose("b")) is Reason.NO_WORKER


def test_without_any_worker_the_call_is_rejected_with_the_routes_status():
    call = Call("", fallback_status=486)
    rejected = Termination.of(Reason.NO_WORKER, "no AI worker is free")
    assert call.start() == [Reject(486, rejected), EndMedia(), PublishEnded(rejected, 0.0, 0.0), DropEntry()]


def test_without_a_sound_link_set_up_waits_a_moment_for_the_workers_to_be_heard_again():
    call = Call("")
    call.roster.link_down()
    assert call.start() == [W]
    assert call.leg.phase is Phase.SEEKING
    call.roster.link_up(call.now)
    call.beat("a")
    assert call.wait(SEEK_RETRY_S) == [SendOffer("a", 1, "retry"), W]


def test_without_a_sound_link_set_up_does_not_wait_for_ever():
    call = Call("")
    call.roster.link_down()
    call.start()
    waited = 0.0
    while call.leg.phase is not Phase.ENDED:
        waited += SEEK_RETRY_S
        call.wait(SEEK_RETRY_S)
    assert waited == pytest.approx(SETUP_PATIENCE_S)
    assert call.leg.termination.reason is Reason.NO_WORKER


def test_a_worker_that_is_not_ready_in_time_is_replaced():
    call = Call().claimed()
    assert call.leg.deadline() == T0 + 5
    assert call.wait(5.0) == [
        SendRelease("a", 1),
        StopUplink(),
        Lost("a", 1, "failed", "not ready in time"),
        SendOffer("b", 2, "retry"),
        W,
    ]


def test_when_no_worker_gets_ready_the_call_ends_with_that_reason():
    call = Call("a").claimed()
    assert reason_of(call.wait(5.0)) is Reason.NOT_READY


def test_a_model_that_refuses_on_all_workers_ends_the_call_with_that_reason():
    call = Call().claimed()
    reply, actions = call.command(Failed(epoch=1, reason=Reason.MODEL_REFUSED, detail="no credit"))
    assert reply.ok
    assert SendOffer("b", 2, "retry") in actions
    call.accept("b", 2)
    _, actions = call.command(Failed(epoch=2, reason=Reason.MODEL_REFUSED, detail="no credit"))
    end = Termination.of(Reason.MODEL_REFUSED, "no credit")
    assert actions == [
        SendRelease("b", 2),
        StopUplink(),
        Lost("b", 2, "failed", "no credit"),
        Reject(503, end),
        EndMedia(),
        PublishEnded(end, 0.0, 0.0),
        DropEntry(),
    ]


def test_a_model_that_refuses_once_and_a_refused_offer_still_end_with_the_models_reason():
    call = Call().claimed()
    call.command(Failed(epoch=1, reason=Reason.MODEL_UNREACHABLE))
    assert reason_of(call.refuse("b", 2)) is Reason.MODEL_UNREACHABLE


# -- ready --------------------------------------------------------------------------------------------------


def test_a_ready_of_a_stale_epoch_is_refused():
    call = Call().claimed()
    call.wait(5.0)
    call.accept("b", 2)
    reply, actions = call.command(Ready(epoch=1))
    assert (reply.ok, actions) == (False, [])
    assert "epoch 1" in reply.error
    assert call.leg.phase is Phase.CLAIMED


def test_ready_twice_answers_once():
    call = Call().talking()
    reply, actions = call.command(Ready(epoch=1))
    assert (reply.ok, actions) == (True, [])


def test_a_ready_that_overtakes_its_acceptance_counts_when_the_acceptance_is_there():
    call = Call()
    call.start()
    assert call.ready(1) == []
    assert call.accept("a", 1) == [Claimed("a", 1), StartMedia("a", 1), W, Answer(), W]


def test_a_ready_that_overtook_does_not_count_for_the_next_offer():
    call = Call()
    call.start()
    call.ready(1)
    call.wait(0.08)
    assert call.accept("b", 2) == [Claimed("b", 2), StartMedia("b", 2), W]


def test_a_failure_that_overtakes_its_acceptance_counts_and_the_acceptance_is_released():
    call = Call()
    call.start()
    _, actions = call.command(Failed(epoch=1, reason=Reason.MODEL_FAILED))
    assert actions == [SendRelease("a", 1), SendOffer("b", 2, "retry"), W]
    assert call.accept("a", 1) == [SendRelease("a", 1)]


@pytest.mark.parametrize("command", [Ready(), Failed(reason=Reason.MODEL_FAILED), HandOver()])
def test_a_workers_word_without_its_epoch_is_refused(command):
    call = Call().claimed()
    reply, actions = call.command(command)
    assert (reply.ok, actions) == (False, [])


# -- hang-up ------------------------------------------------------------------------------------------------


def test_a_caller_who_cancels_during_the_offer_releases_the_worker():
    call = Call()
    call.start()
    call.now += 0.05
    gone = call.leg.caller_gone(Reason.CALLER_CANCELLED, call.now)
    assert gone == [SendRelease("a", 1, Reason.CALLER_CANCELLED), *ended(Reason.CALLER_CANCELLED, call.now - T0)]


def test_a_caller_who_hangs_up_while_the_worker_gets_ready_releases_it():
    call = Call().claimed()
    gone = call.leg.caller_gone(Reason.CALLER_CANCELLED, T0)
    assert gone == [SendRelease("a", 1, Reason.CALLER_CANCELLED), *ended(Reason.CALLER_CANCELLED)]
    assert call.ready(1) == []


def test_a_caller_who_hangs_up_while_talking_is_not_told_what_they_know():
    call = Call().talking()
    call.now += 7
    gone = call.leg.caller_gone(Reason.CALLER_HUNG_UP, call.now)
    assert gone == [SendRelease("a", 1, Reason.CALLER_HUNG_UP), *ended(Reason.CALLER_HUNG_UP, 7.0, 7.0)]


def test_a_caller_who_hangs_up_while_nobody_serves_them_ends_the_call_without_a_release():
    call = Call("a").talking()
    call.lose("a")
    assert call.leg.caller_gone(Reason.CALLER_HUNG_UP, T0) == ended(Reason.CALLER_HUNG_UP)


def test_a_caller_gone_before_the_first_offer_has_had_a_call_of_no_length():
    assert Call().leg.caller_gone(Reason.CALLER_CANCELLED, T0) == ended(Reason.CALLER_CANCELLED)


def test_the_end_is_idempotent_and_nothing_follows_it():
    call = Call().talking()
    assert call.leg.caller_gone(Reason.CALLER_HUNG_UP, T0)
    assert call.leg.caller_gone(Reason.RTP_TIMEOUT, T0) == []
    assert call.leg.end(Termination.of(Reason.DRAINING), T0) == []
    assert call.lose("a") == []
    assert call.wait(10_000) == []
    assert call.refuse("a", 1) == []
    assert call.leg.offer_failed("a", 1, "", T0) == []
    assert call.command(HangUp())[0].ok is False
    assert call.leg.deadline() is None
    assert call.leg.termination == Termination.of(Reason.CALLER_HUNG_UP)


# -- failover -----------------------------------------------------------------------------------------------


def test_a_worker_that_dies_during_the_offer_is_replaced_without_a_word():
    call = Call()
    call.start()
    assert call.lose("a") == [SendRelease("a", 1), SendOffer("b", 2, "retry"), W]


def test_a_worker_that_dies_before_it_is_ready_is_replaced_without_filler():
    call = Call().claimed()
    assert call.lose("a") == [
        SendRelease("a", 1),
        StopUplink(),
        Lost("a", 1, "gone", "worker gone"),
        SendOffer("b", 2, "failover"),
        W,
    ]


def test_a_worker_that_dies_while_talking_is_fenced_and_the_caller_stays_on_the_line():
    call = Call().talking()
    call.played = 4800
    assert call.lose("a", "silent") == [
        SendRelease("a", 1),
        StopUplink(),
        Lost("a", 1, "silent", "worker silent", 4800),
        SetFiller(True),
        SendOffer("b", 2, "failover"),
        W,
    ]
    assert call.accept("b", 2) == [Claimed("b", 2), StartMedia("b", 2), W]
    assert call.ready(2) == [SetFiller(False), W]
    assert (call.leg.dead.wk, call.leg.dead.epoch, call.leg.dead.cause) == ("a", 1, "failover")


def test_another_workers_death_is_none_of_our_business():
    call = Call().talking()
    assert call.lose("b") == []


def test_two_failovers_in_a_row_remember_how_far_each_was_played():
    call = Call("abc").talking()
    call.played = 1600
    call.lose("a")
    call.accept("b", 2)
    call.played = 320
    actions = call.lose("b")
    assert Lost("b", 2, "gone", "worker gone", 320) in actions
    assert SendOffer("c", 3, "failover") in actions
    call.accept("c", 3)
    call.ready(3)
    assert call.leg.played_by_epoch == {1: 1600, 2: 320}
    assert (call.leg.wk, call.leg.epoch, call.leg.phase) == ("c", 3, Phase.TALKING)


def test_a_successor_that_fails_before_it_is_ready_reports_what_it_had_played():
    call = Call("abc").talking()
    call.lose("a")
    call.accept("b", 2)
    call.played = 960
    _, actions = call.command(Failed(epoch=2, reason=Reason.MODEL_FAILED))
    assert Lost("b", 2, "failed", Reason.MODEL_FAILED, 960) in actions
    assert SendOffer("c", 3, "failover") in actions


def test_with_nobody_there_the_leg_keeps_seeking_until_a_worker_comes_back():
    call = Call("a").talking()
    assert call.lose("a")[-1] == W
    assert call.leg.phase is Phase.SEEKING
    assert call.leg.deadline() == T0 + SEEK_RETRY_S
    assert call.wait(SEEK_RETRY_S) == [W]
    call.beat("a")
    assert call.wait(SEEK_RETRY_S) == [SendOffer("a", 2, "retry"), W]
    call.accept("a", 2)
    assert call.ready(2) == [SetFiller(False), W]


def test_with_nobody_there_for_too_long_the_call_ends_as_worker_lost():
    call = Call("a").talking()
    call.lose("a")
    while call.leg.phase is Phase.SEEKING:
        actions = call.wait(SEEK_RETRY_S)
    assert call.now - T0 == pytest.approx(SEEK_LIMIT_S)
    end = Termination.of(Reason.WORKER_LOST, "no worker could take the call over")
    assert actions[0] == HangUpCaller(end)
    assert reason_of(actions) is Reason.WORKER_LOST


def test_workers_that_accept_and_fail_again_and_again_do_not_keep_the_caller_for_ever():
    call = Call("ab").talking()
    call.lose("a")
    rounds = 0
    while call.leg.phase is not Phase.ENDED:
        rounds += 1
        call.beat("a"), call.beat("b")
        if call.leg.phase is Phase.OFFERING:
            call.accept(call.leg.wk, call.leg.epoch)
            call.command(Failed(epoch=call.leg.epoch, reason=Reason.MODEL_FAILED))
        else:
            call.wait(SEEK_RETRY_S)
        assert rounds < 1000
    assert call.leg.termination.reason is Reason.MODEL_FAILED
    assert call.now - T0 <= SEEK_LIMIT_S + 2 * SEEK_RETRY_S


def test_the_patience_for_one_failover_does_not_count_for_the_next():
    call = Call("a").talking()
    call.lose("a")
    call.beat("a")
    call.wait(SEEK_RETRY_S)
    call.accept("a", 2)
    call.ready(2)
    call.now += SEEK_LIMIT_S * 2
    call.lose("a")
    assert call.leg.phase is Phase.SEEKING


def test_a_worker_whose_model_fails_in_mid_call_is_replaced():
    call = Call().talking()
    call.played = 160
    reply, actions = call.command(Failed(epoch=1, reason=Reason.MODEL_FAILED, detail="socket closed"))
    assert reply.ok
    assert actions == [
        SendRelease("a", 1),
        StopUplink(),
        Lost("a", 1, "failed", "socket closed", 160),
        SetFiller(True),
        SendOffer("b", 2, "failover"),
        W,
    ]


# -- a fenced worker ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [HangUp(epoch=1, reason=Reason.AGENT_HUNG_UP), Mute(epoch=1, muted=True), Failed(epoch=1, reason=Reason.LOST),
     HandOver(epoch=1), Ready(epoch=1)],
    ids=lambda command: command.kind,
)  # fmt: skip
@pytest.mark.parametrize("workers", ["ab", "a"])
def test_a_fenced_workers_command_is_refused_whether_or_not_there_is_a_successor(workers, command):
    call = Call(workers).talking()
    call.lose("a")
    reply, actions = call.command(command)
    assert (reply.ok, actions) == (False, [])
    assert call.leg.phase is (Phase.OFFERING if workers == "ab" else Phase.SEEKING)


def test_the_owners_hang_up_ends_the_call():
    call = Call().talking()
    reply, actions = call.command(HangUp(epoch=1, reason=Reason.AGENT_HUNG_UP))
    end = Termination.of(Reason.AGENT_HUNG_UP)
    assert reply.ok
    assert actions == [
        SendRelease("a", 1, Reason.AGENT_HUNG_UP),
        HangUpCaller(end),
        EndMedia(),
        PublishEnded(end, 0.0, 0.0),
        DropEntry(),
    ]


@pytest.mark.parametrize("workers", ["ab", "a"])
def test_an_operators_commands_need_no_epoch_even_while_nobody_owns_the_call(workers):
    call = Call(workers).talking()
    call.lose("a")
    assert call.command(Mute(muted=True))[0].ok
    assert reason_of(call.command(HangUp())[1]) is Reason.OPERATOR_HUNG_UP


def test_nothing_is_recorded_before_the_answer():
    reply, actions = Call().command(Record(on=True))
    assert (reply.ok, actions) == (False, [])
    assert "not answered" in reply.error
    assert Call().talking().command(Record(on=True))[0].ok


def test_mute_survives_a_failover():
    call = Call().talking()
    assert call.command(Mute(muted=True)) == (call.command(Mute(muted=True))[0], [SetMuted(True), TellAgent(), W])
    call.lose("a")
    call.accept("b", 2)
    call.ready(2)
    assert call.leg.muted


# -- drain (R9) -----------------------------------------------------------------------------------------------


def test_a_draining_worker_hands_over_to_another():
    call = Call().talking()
    call.played = 8000
    reply, actions = call.command(HandOver(epoch=1))
    assert reply.ok
    assert actions == [
        SendRelease("a", 1),
        StopUplink(),
        Lost("a", 1, "drain", "the worker drains", 8000),
        SetFiller(True),
        SendOffer("b", 2, "drain"),
        W,
    ]
    assert call.leg.dead.cause == "drain"


def test_a_draining_worker_keeps_the_call_while_there_is_no_other():
    call = Call("a").talking()
    reply, actions = call.command(HandOver(epoch=1))
    assert (reply.ok, actions) == (False, [])
    assert (call.leg.wk, call.leg.phase) == ("a", Phase.TALKING)


def test_a_worker_that_is_not_ready_yet_cannot_hand_over():
    call = Call().claimed()
    assert call.command(HandOver(epoch=1))[0].ok is False


# -- length -----------------------------------------------------------------------------------------------------


def test_a_call_that_its_worker_does_not_end_is_ended_after_the_overtime():
    call = Call(max_duration_s=60).talking()
    assert call.leg.deadline() == T0 + 60 + OVERTIME_S
    assert call.wait(60) == []
    actions = call.wait(OVERTIME_S)
    assert isinstance(actions[1], HangUpCaller)
    assert reason_of(actions) is Reason.MAX_DURATION


def test_the_overtime_counts_through_failovers():
    call = Call("a", max_duration_s=60, seek_limit_s=1000).talking()
    call.lose("a")
    call.now += 60 + OVERTIME_S
    assert reason_of(call.wait(0)) is Reason.MAX_DURATION


def test_a_leg_without_anything_to_wait_for_has_no_deadline():
    assert Call().leg.deadline() is None


def test_a_living_worker_that_does_not_list_the_call_any_more_is_replaced():
    call = Call("ab").talking()
    assert call.leg.disowned("a", call.now) == [], "its list may be older than its acceptance"
    call.wait(DISOWN_AFTER_S)
    assert call.leg.disowned("b", call.now) == [], "not the owner"
    assert call.leg.disowned("a", call.now) == [
        SendRelease("a", 1),
        StopUplink(),
        Lost("a", 1, "released", "the worker does not list the call", call.played),
        SetFiller(True),
        SendOffer("b", 2, "failover"),
        W,
    ]
