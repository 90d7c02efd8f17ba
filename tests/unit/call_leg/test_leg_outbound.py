"""Outbound calls, and inbound ones that a person lets through or that are answered late: (time, input) -> actions."""

import pytest

from libs.call_leg import actions as do
from libs.call_leg.leg import RING_GUARD_S, SEEK_RETRY_S
from libs.call_leg.phase import Phase
from libs.call_leg.search import SEEK_LIMIT_S
from libs.contracts.commands import Accept, Decline, Failed, HandOver, HangUp, Hold, Say, SendDtmf, Transfer
from libs.contracts.termination import Reason, Termination
from tests.unit.call_leg.test_leg import Call, W, ended, reason_of

# -- outbound: the agent first, then the call ----------------------------------------------------------------


def outbound(workers="ab", **settings):
    return Call(workers, outbound=True, **settings)


def ringing(workers="ab", **settings):
    call = outbound(workers, **settings).claimed()
    call.ready(1)
    return call


def answered(call):
    return call.leg.answered("PCMA", 8000, call.now)


def test_the_number_is_dialled_when_the_worker_is_ready_and_not_before():
    call = outbound()
    assert call.start() == [do.SendOffer("a", 1, "first"), W]
    assert call.accept("a", 1) == [do.Claimed("a", 1), do.StartMedia("a", 1), W]
    assert not call.leg.is_answered
    assert call.ready(1) == [do.Dial(), W]
    assert call.leg.phase is Phase.RINGING


def test_the_agent_is_told_of_the_answer():
    call = ringing()
    call.wait(3)
    assert call.leg.ringing(180, False) == [do.PublishRinging(180, False)]
    assert answered(call) == [do.PublishAnswered("PCMA", 8000), do.SetFiller(False), do.TellAgent(), W]
    assert call.leg.phase is Phase.TALKING
    assert call.leg.answered_at == call.now
    assert call.leg.is_answered


def test_the_same_ringing_is_told_once_and_none_after_the_answer():
    call = ringing()
    assert call.leg.ringing(180, False)
    assert call.leg.ringing(180, False) == []
    assert call.leg.ringing(183, True) == [do.PublishRinging(183, True)]
    answered(call)
    assert call.leg.ringing(180, False) == []


def test_an_answer_counts_once():
    call = ringing()
    answered(call)
    assert answered(call) == []


def test_nothing_rings_or_answers_before_the_number_was_dialled():
    call = outbound().claimed()
    assert call.leg.ringing(180, False) == []
    assert answered(call) == []


def test_without_a_worker_nobody_is_called():
    call = outbound("")
    call.now += 5
    actions = call.start()
    assert actions[0] == do.HangUpCaller(Termination.of(Reason.NO_WORKER, "no AI worker is free"))
    assert not any(isinstance(action, do.Dial) for action in actions)


def test_a_worker_that_is_lost_while_it_rings_is_replaced_without_dialling_again():
    call = ringing()
    assert call.lose("a") == [
        do.SendRelease("a", 1), do.StopUplink(), do.Lost("a", 1, "gone", "worker gone", 0),
        do.SendOffer("b", 2, "failover"), W,
    ]  # fmt: skip
    call.accept("b", 2)
    assert call.ready(2) == [W]
    assert call.leg.phase is Phase.RINGING
    assert answered(call)[:2] == [do.PublishAnswered("PCMA", 8000), do.SetFiller(False)]


def test_a_callee_who_picks_up_while_no_worker_has_the_call_hears_filler_until_one_is_ready():
    call = ringing()
    call.lose("a")
    assert answered(call) == [do.PublishAnswered("PCMA", 8000), do.SetFiller(True), W]
    call.accept("b", 2)
    assert call.ready(2) == [do.SetFiller(False), do.TellAgent(), W]  # it was offered as unanswered
    assert call.leg.phase is Phase.TALKING


def test_a_worker_that_is_offered_an_answered_call_need_not_be_told():
    call = ringing("a")
    call.lose("a")
    assert call.leg.phase is Phase.SEEKING
    answered(call)
    call.beat("b")
    assert call.wait(SEEK_RETRY_S)[0] == do.SendOffer("b", 2, "retry")
    call.accept("b", 2)
    assert call.ready(2) == [do.SetFiller(False), W]


def test_ringing_without_any_worker_ends_when_none_comes_back():
    call = ringing("a")
    call.lose("a")
    for _ in range(int(SEEK_LIMIT_S / SEEK_RETRY_S)):
        actions = call.wait(SEEK_RETRY_S)
    assert isinstance(actions[0], do.HangUpCaller)
    assert reason_of(actions) is Reason.WORKER_LOST


def test_the_legs_guard_stands_behind_the_entrances_ring_limit():
    call = ringing(ring_timeout_s=10)
    assert call.leg.deadline() == call.now + 10 + RING_GUARD_S
    assert call.wait(10) == []
    assert reason_of(call.wait(RING_GUARD_S)) is Reason.CALLEE_NO_ANSWER


def test_after_the_answer_the_ring_limit_is_over():
    call = ringing(ring_timeout_s=10)
    answered(call)
    assert call.wait(60) == []


def test_hanging_up_while_it_rings_cancels():
    call = ringing()
    call.wait(2)
    end = Termination.of(Reason.OPERATOR_HUNG_UP)
    reply, actions = call.command(HangUp())
    assert reply.ok
    assert actions == [
        do.SendRelease("a", 1, Reason.OPERATOR_HUNG_UP),
        do.HangUpCaller(end),
        *ended(Reason.OPERATOR_HUNG_UP, 2),
    ]


@pytest.mark.parametrize("reason", [Reason.CALLEE_BUSY, Reason.CALLEE_NO_ANSWER, Reason.TRUNK_FAILED])
def test_a_refusal_ends_the_call_with_exactly_that(reason):
    call = ringing()
    end = Termination.of(reason, "486 Busy Here")
    actions = call.leg.end(end, call.now, by_caller=True)
    assert actions == [do.SendRelease("a", 1, reason), *ended(reason, detail="486 Busy Here")]


def test_a_worker_that_drains_while_it_rings_is_replaced():
    call = ringing()
    reply, actions = call.command(HandOver(epoch=1))
    assert reply.ok
    assert do.SendOffer("b", 2, "drain") in actions


def test_a_model_that_fails_while_it_rings_costs_that_worker_only():
    call = ringing()
    actions = call.command(Failed(epoch=1, reason=Reason.MODEL_FAILED))[1]
    assert do.SendOffer("b", 2, "retry") in actions
    assert do.StopUplink() in actions


@pytest.mark.parametrize(
    "command", [SendDtmf(digits="1"), Hold(held=True), Say(text="hallo"), Transfer(target="+4930")]
)
def test_nothing_is_done_in_a_call_that_is_not_answered(command):
    reply, actions = ringing().command(command)
    assert (reply.ok, reply.error, actions) == (False, "the call is not answered yet", [])


# -- a person lets it through ----------------------------------------------------------------------------------


def waiting(**settings):
    call = Call(needs_person=True, person_timeout_s=20, **settings)
    return call, call.start()


def test_a_call_that_needs_a_person_waits():
    call, actions = waiting()
    assert actions == [do.PublishWaiting(20), W]
    assert call.leg.phase is Phase.WAITING


def test_an_accepted_call_is_offered_as_usual():
    call, _ = waiting()
    call.now += 15
    assert call.command(Accept())[1] == [do.SendOffer("a", 1, "first"), W]
    call.accept("a", 1)
    assert call.ready(1) == [do.Answer(), W]


def test_a_declined_call_is_refused():
    call, _ = waiting()
    call.now += 2
    end = Termination.of(Reason.OPERATOR_DECLINED, "not now")
    assert call.command(Decline(detail="not now"))[1] == [
        do.Reject(503, end), *ended(Reason.OPERATOR_DECLINED, 2, detail="not now")
    ]  # fmt: skip


def test_nobody_accepts():
    call, _ = waiting()
    assert reason_of(call.wait(20)) is Reason.NOT_ACCEPTED


def test_a_caller_gives_up_while_waiting():
    call, _ = waiting()
    assert reason_of(call.leg.caller_gone(Reason.CALLER_CANCELLED, call.now)) is Reason.CALLER_CANCELLED


@pytest.mark.parametrize("command", [Accept(), Decline()])
def test_only_a_waiting_call_is_accepted_or_declined(command):
    reply, actions = Call().talking().command(command)
    assert (reply.ok, actions) == (False, [])
    assert "talking" in reply.error


# -- answered late -----------------------------------------------------------------------------------------------


def test_a_delayed_answer_waits_for_its_time_although_the_worker_is_ready():
    call = Call(answer_delay_s=3).claimed()
    call.now += 1
    assert call.ready(1) == [W]
    assert call.leg.phase is Phase.RINGING
    assert not call.leg.is_answered
    assert call.wait(1.9) == []
    assert call.wait(0.2) == [do.Answer(), do.TellAgent(), W]
    assert call.leg.is_answered


def test_a_worker_that_is_ready_after_the_delay_answers_at_once():
    call = Call(answer_delay_s=3).claimed()
    call.now += 3.5
    assert call.ready(1) == [do.Answer(), do.TellAgent(), W]


def test_a_worker_lost_during_the_delay_is_replaced():
    call = Call(answer_delay_s=3).claimed()
    call.ready(1)
    assert do.SendOffer("b", 2, "failover") in call.lose("a")
    call.accept("b", 2)
    call.ready(2)
    assert call.wait(3)[0] == do.Answer()
