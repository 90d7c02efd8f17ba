"""Two things at once: hang-ups, deaths, drains, take-overs and transfers that meet. (time, input) -> actions."""

import pytest

from libs.call_leg import actions as do
from libs.call_leg.leg import OVERTIME_S, SEEK_RETRY_S
from libs.call_leg.phase import Phase
from libs.call_leg.search import FAILURES_IN_A_ROW, SEEK_LIMIT_S, STEADY_S
from libs.contracts.commands import (
    Accept,
    Describe,
    Failed,
    HandOver,
    HangUp,
    Hold,
    Mute,
    Ready,
    Say,
    TakeOver,
    Transfer,
)
from libs.contracts.termination import Reason, Termination
from tests.unit.call_leg.test_leg import Call, W, reason_of

ASK = Transfer(target="+4930123")


def people(call):
    call.room["p1"] = call.room["p2"] = 0
    call.beat("p1")
    call.beat("p2")
    return call


def waiting(call):
    call.start()
    return call


def claimed(call):
    call.claimed()
    return call


def talking(call):
    call.talking()
    return call


def seeking(call):
    call.talking()
    for wk in list(call.roster._workers):
        if not wk.startswith("p"):
            call.lose(wk)
    return call


def bridged(call):
    call.talking()
    call.command(ASK)
    call.leg.transfer_began("bridge")
    call.leg.transfer_ended(True, 200, call.now)
    return call


def with_person(call):
    call.talking()
    assert call.command(TakeOver(by="p1"))[0].ok
    return call


def parked(call):
    call.talking()
    call.command(ASK)
    call.leg.transfer_began("refer")
    call.lose("a")
    return call


PHASES = {
    "waiting": ({"needs_person": True}, waiting, Phase.WAITING),
    "offering": ({}, waiting, Phase.OFFERING),
    "claimed": ({}, claimed, Phase.CLAIMED),
    "delayed": ({"answer_delay_s": 3}, talking, Phase.RINGING),
    "dialled": ({"outbound": True}, talking, Phase.RINGING),
    "talking": ({}, talking, Phase.TALKING),
    "seeking": ({}, seeking, Phase.SEEKING),
    "parked": ({}, parked, Phase.SEEKING),
    "person": ({}, with_person, Phase.TALKING),
    "bridged": ({}, bridged, Phase.BRIDGED),
}


def at(name):
    settings, bring, phase = PHASES[name]
    call = bring(people(Call(**settings)))
    assert call.leg.phase is phase
    return call


@pytest.fixture(params=PHASES)
def call(request):
    return at(request.param)


# -- in every phase --------------------------------------------------------------------------------------------


def test_a_call_can_be_described_until_it_has_ended(call):
    before = (call.leg.phase, call.leg.epoch, call.leg.deadline())
    reply, actions = call.command(Describe())
    assert (reply.ok, actions) == (True, [])
    assert (call.leg.phase, call.leg.epoch, call.leg.deadline()) == before
    call.command(HangUp())
    assert not call.command(Describe())[0].ok


def test_an_operator_may_hang_up_and_whoever_has_the_call_is_released(call):
    owner = call.leg.wk
    actions = call.command(HangUp())[1]
    assert reason_of(actions) is Reason.OPERATOR_HUNG_UP
    assert [action.wk for action in actions if isinstance(action, do.SendRelease)] == ([owner] if owner else [])
    assert actions[-1] == do.DropEntry()
    assert call.leg.deadline() is None


def test_nothing_that_comes_after_the_end_changes_it(call):
    owner, epoch = call.leg.wk or "a", call.leg.epoch
    call.command(HangUp())
    late = [
        call.leg.caller_gone(Reason.CALLER_HUNG_UP, call.now),
        call.leg.end(Termination.of(Reason.CALLEE_BUSY), call.now, by_caller=True),
        call.leg.answered("PCMA", 8000, call.now),
        call.leg.ringing(180, False),
        call.leg.remote_held(True),
        call.leg.transfer_began("refer"),
        call.leg.transfer_progress(180),
        call.leg.transfer_ended(True, 200, call.now),
        call.leg.disowned(owner, call.now + 10),
        call.lose(owner),
        call.wait(4000),
        *(
            call.command(command)[1]
            for command in (Ready(epoch=epoch), HandOver(epoch=epoch), HangUp(), Mute(muted=True), Accept(), ASK)
        ),
    ]
    assert late == [[]] * len(late)
    assert call.leg.termination.reason is Reason.OPERATOR_HUNG_UP


def test_whoever_dies_the_call_keeps_a_way_to_its_end(call):
    if call.leg.wk is not None:
        call.lose(call.leg.wk)
    if call.leg.phase is not Phase.ENDED:
        assert call.leg.deadline() is not None
        for _ in range(200):
            call.now = max(call.leg.deadline(), call.now)
            call.leg.expire(call.now)
            if call.leg.wk is not None:  # nobody accepts
                call.leg.offer_failed(call.leg.wk, call.leg.epoch, "nobody listens there", call.now)
            if call.leg.phase is Phase.ENDED:
                break
    assert call.leg.phase is Phase.ENDED


@pytest.mark.parametrize("name", ["waiting", "offering", "claimed", "delayed", "dialled"])
@pytest.mark.parametrize("command", [ASK, Hold(held=True), Say(text="x"), TakeOver(by="p1")])
def test_nothing_is_done_in_a_call_before_its_answer(name, command):
    call = at(name)
    reply, actions = call.command(command)
    assert (reply.error, actions) == ("the call is not answered yet", [])


@pytest.mark.parametrize(
    ("name", "drains"),
    [("offering", False), ("claimed", False), ("delayed", True), ("dialled", True), ("talking", True)],
)
def test_a_worker_may_drain_as_soon_as_it_is_ready(name, drains):
    call = at(name)
    assert call.command(HandOver(epoch=call.leg.epoch))[0].ok is drains
    assert call.leg.phase is not Phase.ENDED


# -- a delayed answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["caller", "operator"])
def test_a_hang_up_during_the_delay_leaves_nothing_to_answer(who):
    call = at("delayed")
    hung_up = who == "caller"
    actions = call.leg.caller_gone(Reason.CALLER_CANCELLED, call.now) if hung_up else call.command(HangUp())[1]
    assert actions[0].wk == "a"
    assert any(isinstance(action, do.Reject) for action in actions) is not hung_up
    assert call.wait(10) == []


def test_a_worker_that_was_ready_ends_the_count_of_attempts():
    call = Call("abcd", answer_delay_s=3)
    call.start()
    call.refuse("a", 1)
    call.refuse("b", 2)
    call.accept("c", 3)
    call.ready(3)
    assert do.SendOffer("d", 4, "failover") in call.lose("c")  # the fourth attempt


def test_a_worker_drains_during_the_delay_only_if_somebody_else_may_be_asked():
    call = Call("ab", answer_delay_s=3)
    call.start()
    call.refuse("a", 1)
    call.accept("b", 2)
    call.ready(2)
    assert not call.command(HandOver(epoch=2))[0].ok  # `a` has said no: the call would be lost
    assert call.wait(3)[0] == do.Answer()
    assert call.command(HandOver(epoch=2))[0].ok


def test_a_successor_that_gets_ready_after_the_delays_end_answers_at_once():
    call = at("delayed")
    call.now += 2.9
    call.lose("a")
    call.accept("b", 2)
    assert call.wait(1) == []
    assert call.ready(2) == [do.Answer(), do.TellAgent(), W]


def test_the_last_worker_lost_during_the_delay_brings_the_fallback():
    call = Call("a", answer_delay_s=3).talking()
    actions = call.lose("a")
    assert any(isinstance(action, do.Reject) for action in actions)
    assert reason_of(actions) is Reason.NO_WORKER


# -- what a session that is not there yet must hear (R8) -------------------------------------------------------


def failing_over():
    call = at("talking")
    call.lose("a")
    call.accept("b", 2)
    return call


@pytest.mark.parametrize(
    "change",
    [
        lambda call: call.command(Hold(held=True)),
        lambda call: call.command(Mute(muted=True)),
        lambda call: call.leg.remote_held(True),
        lambda call: (call.command(ASK), call.leg.transfer_began("refer")),
    ],
)
def test_what_changed_since_the_offer_is_told_when_the_worker_is_ready(change):
    call = failing_over()
    change(call)
    assert do.TellAgent() in call.ready(2)


def test_what_changed_back_since_the_offer_is_no_news():
    call = failing_over()
    call.leg.remote_held(True)
    call.leg.remote_held(False)
    assert call.ready(2) == [do.SetFiller(False), W]


@pytest.mark.parametrize("settings", [{"outbound": True}, {"answer_delay_s": 3}])
def test_an_agent_muted_before_it_was_ready_knows_it_before_the_answer(settings):
    call = Call(**settings).claimed()
    call.command(Mute(muted=True))
    assert call.ready(1)[0] == do.TellAgent()


# -- outbound --------------------------------------------------------------------------------------------------


def test_a_callee_who_picks_up_in_the_instant_of_the_hang_up_changes_nothing():
    call = at("dialled")
    assert any(isinstance(action, do.HangUpCaller) for action in call.command(HangUp())[1])
    assert call.leg.answered("PCMA", 8000, call.now) == []


def test_a_refusal_after_the_answer_is_an_end_like_any_other():
    call = at("dialled")
    call.leg.answered("PCMA", 8000, call.now)
    call.now += 2
    actions = call.leg.end(Termination.of(Reason.TRUNK_FAILED), call.now, by_caller=True)
    assert reason_of(actions) is Reason.TRUNK_FAILED
    assert actions[-2].talk_s == 2


def test_an_answer_that_comes_twice_is_told_once_whoever_has_the_call():
    call = at("dialled")
    call.lose("a")
    call.leg.answered("PCMA", 8000, call.now)
    assert call.leg.answered("PCMU", 8000, call.now + 1) == []
    assert call.leg.answered_at == call.now


# -- hold ------------------------------------------------------------------------------------------------------


def test_both_sides_hold_and_each_takes_back_its_own():
    call = at("talking")
    call.command(Hold(held=True))
    call.leg.remote_held(True)
    assert do.SetFiller(False) in call.command(Hold(held=False))[1]
    assert call.leg.held
    assert not call.leg.held_by_us
    assert "on hold" in call.command(Say(text="x"))[0].error
    call.leg.remote_held(False)
    assert call.command(Say(text="x"))[0].ok


def test_a_held_caller_is_not_transferred_but_one_who_holds_us_may_be():
    call = at("talking")
    call.leg.remote_held(True)
    call.command(Hold(held=True))
    assert "take it back" in call.command(ASK)[0].error
    call.command(Hold(held=False))
    assert call.command(ASK)[1] == [do.StartTransfer(ASK)]
    assert "under way" in call.command(Hold(held=True))[0].error


def test_a_person_who_takes_a_held_call_leaves_it_held_until_told_otherwise():
    call = at("talking")
    call.command(Hold(held=True))
    assert not any(isinstance(action, do.SetFiller) for action in call.command(TakeOver(by="p1"))[1])
    assert call.leg.held_by_us
    assert do.SetFiller(False) in call.command(Hold(held=False))[1]


# -- mute: the agent, never a person ---------------------------------------------------------------------------


def test_muting_twice_is_told_once():
    call = at("talking")
    assert call.command(Mute(muted=True))[1] == [do.SetMuted(True), do.TellAgent(), W]
    assert call.command(Mute(muted=True))[1] == []


def test_a_muted_agent_is_not_asked_to_say_what_nobody_would_hear():
    call = at("talking")
    call.command(Mute(muted=True))
    assert "muted" in call.command(Say(text="x"))[0].error


def test_a_person_cannot_be_muted_and_unmuting_means_nothing():
    call = at("person")
    reply, actions = call.command(Mute(muted=True))
    assert ("p1" in reply.error, actions) == (True, [])
    assert call.command(Mute(muted=False)) == (call.command(Mute(muted=False))[0], [])


def test_nobody_is_muted_in_a_bridged_call():
    assert "transferred" in at("bridged").command(Mute(muted=True))[0].error


# -- take-over -------------------------------------------------------------------------------------------------


def test_a_person_may_take_the_call_from_another_person():
    call = at("person")
    actions = call.command(TakeOver(by="p2"))[1]
    assert actions[:2] == [do.SendRelease("p1", 2), do.TakenOver("p2", 3, "p1", 0)]
    assert not call.command(HandOver(epoch=2))[0].ok  # the first one is fenced


def test_nobody_takes_a_call_whose_transfer_decides():
    assert "under way" in at("parked").command(TakeOver(by="p1"))[0].error


def test_a_take_over_during_a_failover_releases_who_was_asked():
    call = at("talking")
    call.lose("a")
    assert call.leg.phase is Phase.OFFERING
    actions = call.command(TakeOver(by="p1"))[1]
    assert actions[:2] == [do.SendRelease("b", 2), do.TakenOver("p1", 3, "b", None)]
    assert call.command(Ready(epoch=2))[0].ok is False
    assert call.accept("b", 2) == [do.SendRelease("b", 2)]
    assert call.wait(SEEK_LIMIT_S) == []


def test_a_hand_over_that_crosses_the_hang_up_is_refused():
    call = at("person")
    call.leg.caller_gone(Reason.CALLER_HUNG_UP, call.now)
    reply, actions = call.command(HandOver(epoch=2))
    assert (reply.error, actions) == ("the call has ended", [])


def test_a_hang_up_that_crosses_the_hand_over_is_the_agents_to_decide():
    call = at("person")
    call.command(HandOver(epoch=2))
    assert not call.command(HangUp(epoch=2))[0].ok
    assert call.leg.phase is Phase.OFFERING


def test_a_person_keeps_the_call_while_no_agent_is_free():
    call = at("person")
    call.lose("a")
    call.lose("b")
    assert not call.command(HandOver(epoch=2))[0].ok
    assert (call.leg.wk, call.leg.phase) == ("p1", Phase.TALKING)


def test_after_a_person_who_vanished_nobody_has_the_call():
    call = people(Call("a"))
    with_person(call)
    call.lose("a")
    call.lose("p1", "silent")
    assert (call.leg.phase, call.leg.wk, call.leg.is_person) == (Phase.SEEKING, None, False)
    assert "no agent" in call.command(Say(text="x"))[0].error
    assert do.TakenOver("p2", 3, None, None) in call.command(TakeOver(by="p2"))[1]


def test_what_agents_failed_before_a_person_had_the_call_is_forgotten():
    call = at("talking")
    for _ in range(FAILURES_IN_A_ROW - 1):
        call.command(Failed(epoch=call.leg.epoch, reason=Reason.MODEL_FAILED))
        call.accept(call.leg.wk, call.leg.epoch)
        call.ready(call.leg.epoch)
    call.command(TakeOver(by="p1"))
    call.now += STEADY_S
    call.command(HandOver(epoch=call.leg.epoch))
    call.accept(call.leg.wk, call.leg.epoch)
    call.ready(call.leg.epoch)
    call.command(Failed(epoch=call.leg.epoch, reason=Reason.MODEL_FAILED))
    assert call.leg.phase is Phase.OFFERING


# -- transfers -------------------------------------------------------------------------------------------------


def test_a_transfer_that_ends_twice_brings_one_successor():
    call = at("parked")
    first = call.leg.transfer_ended(False, 486, call.now)
    assert [action.wk for action in first if isinstance(action, do.SendOffer)] == ["b"]
    assert call.leg.transfer_ended(False, 486, call.now) == []
    assert call.leg.transfer_ended(True, 200, call.now) == []
    assert call.leg.phase is Phase.OFFERING


def test_a_bridge_that_stands_before_the_failovers_acceptance_sends_the_worker_away():
    call = people(Call("ab")).talking()
    call.lose("a")
    call.command(ASK)
    call.leg.transfer_began("bridge")
    actions = call.leg.transfer_ended(True, 200, call.now)
    assert do.SendRelease("b", 2, Reason.TRANSFERRED) in actions
    assert call.accept("b", 2) == [do.SendRelease("b", 2)]
    assert call.leg.phase is Phase.BRIDGED


def test_the_maximum_ends_a_call_whose_transfer_runs():
    call = Call(max_duration_s=10).talking()
    call.now += 10 + OVERTIME_S - 1
    call.command(ASK)
    actions = call.wait(1)
    assert actions[0] == do.CancelTransfer()
    assert reason_of(actions) is Reason.MAX_DURATION


def test_a_failed_transfer_while_nobody_has_the_call_gives_the_search_its_time():
    call = seeking(people(Call("a")))
    call.command(ASK)
    call.leg.transfer_began("refer")
    call.now += SEEK_LIMIT_S + 5
    call.leg.transfer_ended(False, 480, call.now)
    assert call.wait(SEEK_RETRY_S) == [W]
    assert reason_of(call.wait(SEEK_LIMIT_S)) is Reason.WORKER_LOST
