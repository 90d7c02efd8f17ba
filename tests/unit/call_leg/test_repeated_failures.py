"""A model that fails whoever asks it must not keep a caller in an endless row of workers."""

from libs.call_leg.actions import Action, Answer, HangUpCaller, PublishEnded, SendOffer
from libs.call_leg.leg import Leg, LegConfig
from libs.call_leg.phase import Phase
from libs.call_leg.roster import Roster
from libs.call_leg.search import FAILURES_IN_A_ROW, STEADY_S
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
