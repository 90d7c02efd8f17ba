"""Failures of whoever has the call, and what the caller makes of them: an endless row of workers, or giving up."""

import pytest

from libs.call_leg.actions import Action, Answer, HangUpCaller, PublishEnded, SendOffer
from libs.call_leg.leg import Leg, LegConfig
from libs.call_leg.phase import Phase
from libs.call_leg.roster import Gone, Roster
from libs.call_leg.search import FAILURES_IN_A_ROW, GAVE_UP_AFTER_S, STEADY_S
from libs.contracts.commands import Failed, Ready
from libs.contracts.termination import Reason


def talking(now: float = 1.0) -> Leg:
    roster = Roster()
    roster.link_up(0.0)
    for wk in ("wk-a", "wk-b"):
        roster.heartbeat(wk, 0.0, calls=0, capacity=10_000, draining=False)
    leg = Leg(LegConfig("call-1"), roster, lambda: 0)
    assert Answer() in take(leg, leg.start(now), now)
    return leg


def take(leg: Leg, actions: list[Action], now: float) -> list[Action]:
    """The offered worker accepts and is ready."""
    (offer,) = [action for action in actions if isinstance(action, SendOffer)]
    leg.offer_answered(offer.wk, offer.epoch, True, "", now)
    return leg.command(Ready(epoch=offer.epoch), now)[1]


def fail(leg: Leg, now: float) -> list[Action]:
    failed = Failed(epoch=leg.epoch, reason=Reason.MODEL_FAILED, detail="closed with 1011")
    return leg.command(failed, now)[1]


def test_failures_in_a_row_end_the_call_with_the_models_reason():
    leg = talking()
    for number in range(FAILURES_IN_A_ROW - 1):
        take(leg, fail(leg, 2.0 + number), 2.0 + number)
    actions = fail(leg, 9.0)
    (ended,) = [action for action in actions if isinstance(action, PublishEnded)]
    assert (ended.termination.reason, ended.termination.detail) == (Reason.MODEL_FAILED, "closed with 1011")
    assert any(isinstance(action, HangUpCaller) for action in actions)
    assert leg.phase is Phase.ENDED


def test_failures_far_apart_are_each_taken_over():
    leg, now = talking(), 1.0
    for _ in range(3 * FAILURES_IN_A_ROW):
        now += STEADY_S
        take(leg, fail(leg, now), now)
    assert leg.phase is Phase.TALKING


def lost(now: float = 5.0) -> Leg:
    """The agent was lost in the middle of a conversation, and the next worker does not become ready."""
    leg = talking()
    (offer,) = [one for one in leg.worker_gone(Gone(leg.wk, "gone"), now) if isinstance(one, SendOffer)]
    leg.offer_answered(offer.wk, offer.epoch, True, "", now)
    return leg


@pytest.mark.parametrize("reason", [Reason.CALLER_HUNG_UP, Reason.CALLEE_HUNG_UP])
def test_who_gives_up_waiting_for_another_agent_has_not_ended_the_call_properly(reason):
    leg = lost(now=5.0)
    leg.caller_gone(reason, 5.0 + GAVE_UP_AFTER_S)
    assert leg.termination.reason is Reason.WORKER_LOST
    assert leg.termination.detail == "no worker could take the call over; the other side gave up after 2 s"


def test_who_hangs_up_as_the_agent_is_lost_would_have_done_so_anyway():
    leg = lost(now=5.0)
    leg.caller_gone(Reason.CALLER_HUNG_UP, 5.0 + GAVE_UP_AFTER_S - 0.1)
    assert leg.termination.reason is Reason.CALLER_HUNG_UP


def test_who_is_served_again_hangs_up_as_ever():
    leg = lost(now=5.0)
    leg.command(Ready(epoch=leg.epoch), 5.5)
    leg.caller_gone(Reason.CALLER_HUNG_UP, 30.0)
    assert leg.termination.reason is Reason.CALLER_HUNG_UP


def ringing() -> Leg:
    """The first worker has the call, and is not ready yet."""
    roster = Roster()
    roster.link_up(0.0)
    for wk in ("wk-a", "wk-b"):
        roster.heartbeat(wk, 0.0, calls=0, capacity=10_000, draining=False)
    leg = Leg(LegConfig("call-1"), roster, lambda: 0)
    leg.start(1.0)
    leg.offer_answered(leg.wk, leg.epoch, True, "", 1.0)
    return leg


def test_who_cancels_while_the_model_fails_one_worker_after_the_other_was_failed_by_it():
    leg = ringing()
    fail(leg, 2.0)
    leg.caller_gone(Reason.CALLER_CANCELLED, 4.0)
    assert leg.termination.reason is Reason.MODEL_FAILED
    assert leg.termination.detail == "closed with 1011; the other side gave up after 3 s"


def test_who_cancels_while_nothing_has_failed_yet_has_cancelled():
    leg = ringing()
    leg.caller_gone(Reason.CALLER_CANCELLED, 4.0)
    assert leg.termination.reason is Reason.CALLER_CANCELLED
