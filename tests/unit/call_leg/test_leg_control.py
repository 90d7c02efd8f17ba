"""Transfer, hold, keys, words and take-over: (time, input) -> actions."""

import pytest

from libs.call_leg import actions as do
from libs.call_leg.leg import OVERTIME_S, SEEK_RETRY_S
from libs.call_leg.phase import Phase
from libs.call_leg.search import FAILURES_IN_A_ROW, SEEK_LIMIT_S
from libs.call_leg.transfer import TRANSFER_LIMIT_S
from libs.contracts.commands import Failed, HandOver, HangUp, Hold, Mute, Say, SendDtmf, TakeOver, Transfer
from libs.contracts.termination import Reason, Termination
from tests.unit.call_leg.test_leg import Call, W, reason_of

TO = "+4930123"
ASK = Transfer(target=TO)


def course(actions):
    return [(action.state, action.status) for action in actions if isinstance(action, do.PublishTransfer)]


def transferring(mode="refer", **settings):
    call = Call(**settings).talking()
    call.command(ASK)
    call.leg.transfer_began(mode)
    return call


def transfer_ends(call, ok, status=None, detail=""):
    return call.leg.transfer_ended(ok, status, call.now, detail)


# -- transfer (R8) -----------------------------------------------------------------------------------------------


def test_a_transfer_is_begun_by_the_entrance_and_told():
    call = Call().talking()
    assert call.command(ASK)[1] == [do.StartTransfer(ASK)]
    assert call.leg.transfer_began("refer") == [do.PublishTransfer("requested", TO, "refer"), do.TellAgent(), W]
    assert call.leg.transfer.state == "pending"
    assert call.leg.transfer_progress(100) == []
    assert course(call.leg.transfer_progress(180)) == [("ringing", 180)]
    assert call.leg.transfer_progress(180) == []


@pytest.mark.parametrize("mode", ["refer", "dial"])
def test_a_done_transfer_ends_the_leg(mode):
    call = transferring(mode)
    call.now += 4
    actions = transfer_ends(call, True, 200)
    end = Termination.of(Reason.TRANSFERRED, f"to {TO}")
    assert actions[:3] == [
        do.PublishTransfer("done", TO, mode, 200), do.SendRelease("a", 1, Reason.TRANSFERRED), do.HangUpCaller(end)
    ]  # fmt: skip
    assert reason_of(actions) is Reason.TRANSFERRED


def test_a_bridged_call_has_no_owner_and_goes_on():
    call = transferring("bridge")
    assert transfer_ends(call, True, 200) == [
        do.PublishTransfer("done", TO, "bridge", 200),
        do.SendRelease("a", 1, Reason.TRANSFERRED),
        do.StopUplink(),
        do.SetFiller(False),
        W,
    ]
    assert call.leg.phase is Phase.BRIDGED
    assert call.lose("a") == []
    assert call.wait(600) == []


@pytest.mark.parametrize("reason", [Reason.CALLER_HUNG_UP, Reason.CALLEE_HUNG_UP])
def test_a_bridged_call_ends_as_transferred_when_either_side_hangs_up(reason):
    call = transferring("bridge")
    transfer_ends(call, True)
    actions = call.leg.caller_gone(reason, call.now)
    assert reason_of(actions) is Reason.TRANSFERRED
    assert not any(isinstance(action, do.HangUpCaller | do.SendRelease) for action in actions)


def test_a_bridged_call_has_its_maximum_too():
    call = transferring("bridge", max_duration_s=60)
    transfer_ends(call, True)
    assert reason_of(call.wait(60 + OVERTIME_S)) is Reason.MAX_DURATION


@pytest.mark.parametrize("command", [ASK, Hold(held=True), SendDtmf(digits="1"), Say(text="x"), TakeOver(by="p")])
def test_a_bridged_call_can_only_be_ended(command):
    call = transferring("bridge")
    transfer_ends(call, True)
    reply, actions = call.command(command)
    assert (reply.ok, actions) == (False, [])
    assert TO in reply.error
    assert reason_of(call.command(HangUp())[1]) is Reason.OPERATOR_HUNG_UP


def test_a_failed_transfer_returns_to_the_agent():
    call = transferring()
    assert transfer_ends(call, False, 486, "Busy Here") == [
        do.PublishTransfer("failed", TO, "refer", 486, "Busy Here"), do.TellAgent(), W
    ]  # fmt: skip
    assert (call.leg.phase, call.leg.transfer.state) == (Phase.TALKING, "failed")


def test_a_transfer_ends_once():
    call = transferring()
    transfer_ends(call, False, 486)
    assert transfer_ends(call, True, 200) == []
    assert call.leg.transfer_progress(180) == []


def test_a_transfer_without_an_end_is_given_up():
    call = transferring()
    assert call.leg.deadline() == call.now + TRANSFER_LIMIT_S
    actions = call.wait(TRANSFER_LIMIT_S)
    assert actions[0] == do.CancelTransfer()
    assert course(actions) == [("failed", None)]


def test_one_transfer_at_a_time():
    call = transferring()
    reply, actions = call.command(Transfer(target="+49301"))
    assert (reply.ok, actions) == (False, [])
    assert TO in reply.error
    transfer_ends(call, False)
    assert call.command(ASK)[1] == [do.StartTransfer(ASK)]


@pytest.mark.parametrize("how", ["operator", "caller"])
def test_the_calls_end_cancels_its_transfer(how):
    call = transferring()
    operator = how == "operator"
    actions = call.command(HangUp())[1] if operator else call.leg.caller_gone(Reason.CALLER_HUNG_UP, call.now)
    assert actions[0] == do.CancelTransfer()
    assert course(actions) == [("failed", None)]


def test_a_worker_that_dies_meanwhile_is_fenced_and_not_replaced():
    call = transferring()
    actions = call.lose("a")
    assert do.SetFiller(True) in actions
    assert do.SendRelease("a", 1) in actions
    assert not any(isinstance(action, do.SendOffer) for action in actions)
    assert call.wait(SEEK_LIMIT_S + 5) == []
    assert not call.command(Say(text="x"))[0].ok
    assert not call.command(Mute(epoch=1, muted=True))[0].ok


def test_after_such_a_death_the_failed_transfer_brings_another_agent_that_is_told():
    call = transferring()
    call.lose("a")
    call.wait(SEEK_LIMIT_S + 5)
    actions = transfer_ends(call, False, 480)
    assert do.SendOffer("b", 2, "failover") in actions
    assert call.leg.transfer.state == "failed"  # travels in the offer
    call.accept("b", 2)
    call.ready(2)
    call.lose("b")
    assert call.leg.transfer.state == "none"  # `b` knew; its successor says nothing of it


def test_after_such_a_death_the_done_transfer_ends_the_call():
    call = transferring()
    call.lose("a")
    assert reason_of(transfer_ends(call, True, 200)) is Reason.TRANSFERRED


def test_after_such_a_death_the_bridge_stands():
    call = transferring("bridge")
    call.lose("a")
    actions = transfer_ends(call, True, 200)
    assert do.SetFiller(False) in actions
    assert not any(isinstance(action, do.SendRelease) for action in actions)


def test_a_model_that_fails_again_and_again_waits_for_the_transfer_too():
    call = transferring()
    for _ in range(FAILURES_IN_A_ROW):
        call.leg._search._failures_in_a_row += 1
    actions = call.command(Failed(epoch=1, reason=Reason.MODEL_FAILED))[1]
    assert call.leg.phase is Phase.SEEKING
    assert course(actions) == []


def test_seeking_goes_on_while_the_transfer_runs():
    call = Call("a").talking()
    call.lose("a")
    assert call.command(ASK)[1] == [do.StartTransfer(ASK)]  # the way out when no agent is left
    call.leg.transfer_began("refer")
    for _ in range(int(SEEK_LIMIT_S / SEEK_RETRY_S) + 4):
        assert call.wait(SEEK_RETRY_S) == [W]
    transfer_ends(call, False)
    assert call.wait(SEEK_RETRY_S) == [W]


def test_no_hand_over_while_a_transfer_runs():
    assert not transferring().command(HandOver(epoch=1))[0].ok


# -- hold, keys, words ---------------------------------------------------------------------------------------------


def test_hold_by_command_and_back():
    call = Call().talking()
    assert call.command(Hold(held=True))[1] == [
        do.HoldCaller(True), do.SetFiller(True), do.TellAgent(), do.PublishHeld(True, "command"), W
    ]  # fmt: skip
    assert call.command(Hold(held=True)) == (call.command(Hold(held=True))[0], [])
    assert call.command(Hold(held=False))[1] == [
        do.HoldCaller(False), do.SetFiller(False), do.TellAgent(), do.PublishHeld(False, "command"), W
    ]  # fmt: skip


def test_a_held_call_keeps_its_tone_over_a_failover():
    call = Call().talking()
    call.command(Hold(held=True))
    call.lose("a")
    call.accept("b", 2)
    assert call.ready(2) == [W]
    assert do.SetFiller(False) in call.command(Hold(held=False))[1]


def test_taken_back_while_nobody_owns_the_call_the_filler_stays():
    call = Call("a").talking()
    call.command(Hold(held=True))
    call.lose("a")
    assert do.SetFiller(True) in call.command(Hold(held=False))[1]


def test_the_other_sides_hold_is_told_once():
    call = Call().talking()
    assert call.leg.remote_held(True) == [do.TellAgent(), do.PublishHeld(True, "remote")]
    assert call.leg.remote_held(True) == []


def test_keys_are_sent():
    assert Call().talking().command(SendDtmf(digits="12#"))[1] == [do.SendDigits("12#")]


def test_words_need_an_agent_and_an_ear():
    call = Call("a").talking()
    assert call.command(Say(text="Moment"))[1] == [do.SayText("Moment")]
    call.leg.remote_held(True)
    assert not call.command(Say(text="Moment"))[0].ok
    call.leg.remote_held(False)
    call.lose("a")
    assert not call.command(Say(text="Moment"))[0].ok


# -- take-over -------------------------------------------------------------------------------------------------------


def with_person(**settings):
    call = Call(**settings).talking()
    call.room["p1"] = 0
    call.beat("p1")
    return call


def test_a_person_takes_over_as_a_worker_would():
    call = with_person()
    call.played = 800
    reply, actions = call.command(TakeOver(by="p1"))
    assert actions == [
        do.SendRelease("a", 1), do.TakenOver("p1", 2, "a", 800), do.StartMedia("p1", 2, "continuous"),
        do.SetFiller(False), W,
    ]  # fmt: skip
    assert reply.details == {"epoch": 2}
    assert (call.leg.wk, call.leg.epoch, call.leg.phase) == ("p1", 2, Phase.TALKING)
    assert call.leg.played_by_epoch == {1: 800}


def test_the_agent_is_fenced_by_the_take_over():
    call = with_person()
    call.command(TakeOver(by="p1"))
    assert not call.command(HangUp(epoch=1))[0].ok
    assert call.lose("a") == []


def test_an_unknown_person_takes_nothing():
    call = Call().talking()
    reply, actions = call.command(TakeOver(by="p1"))
    assert (reply.ok, actions) == (False, [])
    assert "heartbeats" in reply.error


def test_a_person_is_never_offered_a_call():
    call = Call("")
    call.room["p1"] = 0
    call.beat("p1")
    call.now += 5
    assert reason_of(call.start()) is Reason.NO_WORKER


def test_the_same_take_over_again_is_answered_again():
    call = with_person()
    call.command(TakeOver(by="p1"))
    reply, actions = call.command(TakeOver(by="p1"))
    assert (reply.details, actions) == ({"epoch": 2}, [])


def test_a_person_ends_the_agents_muting():
    call = with_person()
    call.command(Mute(muted=True))
    assert do.SetMuted(False) in call.command(TakeOver(by="p1"))[1]


def test_a_person_gives_the_call_back():
    call = with_person()
    call.command(TakeOver(by="p1"))
    call.played = 1600
    actions = call.command(HandOver(epoch=2))[1]
    assert actions[:4] == [
        do.SendRelease("p1", 2), do.StopUplink(),
        do.Lost("p1", 2, "drain", "the person gave the call back", 1600), do.SetFiller(True),
    ]  # fmt: skip
    assert actions[4] == do.SendOffer("a", 3, "drain")
    assert (call.leg.dead.wk, call.leg.dead.cause) == ("p1", "drain")
    assert not call.leg.is_person


def test_a_person_who_is_lost_is_followed_by_an_agent():
    call = with_person()
    call.command(TakeOver(by="p1"))
    assert do.SendOffer("a", 3, "failover") in call.lose("p1", "silent")
    assert call.leg.dead.cause == "failover"


def test_nobody_speaks_through_an_agent_that_has_left():
    call = with_person()
    call.command(TakeOver(by="p1"))
    assert "p1" in call.command(Say(text="x"))[0].error


def test_a_person_saves_a_call_that_no_agent_takes():
    call = Call("a").talking()
    call.room["p1"] = 0
    call.beat("p1")
    call.lose("a")
    assert call.leg.phase is Phase.SEEKING
    actions = call.command(TakeOver(by="p1"))[1]
    assert actions[0] == do.TakenOver("p1", 2, None, None)
    assert call.wait(SEEK_LIMIT_S + 1) == []


def test_an_acceptance_that_crosses_the_take_over_is_given_back():
    call = Call("ab").talking()
    call.room["p1"] = 0
    call.beat("p1")
    call.lose("a")
    call.command(TakeOver(by="p1"))
    assert call.accept("b", 2) == [do.SendRelease("b", 2)]


def test_no_take_over_while_a_transfer_runs():
    call = with_person()
    call.command(ASK)
    assert not call.command(TakeOver(by="p1"))[0].ok
