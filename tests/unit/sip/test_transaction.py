import pytest

from libs.sip.errors import SipStateError
from libs.sip.timers import Deadlines
from libs.sip.transaction import (
    CLIENT_INVITE,
    CLIENT_NON_INVITE,
    SERVER_INVITE,
    SERVER_NON_INVITE,
    ClientInvite,
    ClientNonInvite,
    Expiry,
    InviteHead,
    ServerInvite,
    ServerNonInvite,
    State,
    TimerValues,
)

PEER = ("192.0.2.1", 5060)
TIMERS = TimerValues()
HEAD = InviteHead("sip:b@x", [], "SIP/2.0/UDP h;branch=z9hG4bK1", "<sip:a@x>;tag=1", "<sip:b@x>", "id", 1)


def run(transaction) -> list[tuple[float, bytes | None]]:
    """Everything that the timers do until the transaction ends."""
    happened = []
    while (at := transaction.deadline()) is not None:
        expiry = transaction.expire(at)
        happened.append((at, expiry.resend))
        if transaction.state is State.TERMINATED:
            break
    return happened


def times(happened) -> list[float]:
    return [at for at, data in happened if data is not None]


@pytest.mark.parametrize("table", [SERVER_INVITE, SERVER_NON_INVITE, CLIENT_INVITE, CLIENT_NON_INVITE])
def test_every_state_of_a_table_leads_to_terminated(table):
    def ends(state: State, seen: frozenset) -> bool:
        return state is State.TERMINATED or any(
            ends(following, seen | {state})
            for (of, _), following in table.items()
            if of is state and following not in seen
        )

    assert all(ends(state, frozenset()) for state, _ in table)


def test_timers_a_and_b_repeat_the_invite_without_bound_on_the_interval():
    transaction = ClientInvite(TIMERS, PEER, b"INVITE", 0.0, HEAD)
    happened = run(transaction)
    assert times(happened) == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert happened[-1] == (32.0, None)


def test_timers_e_and_f_repeat_a_request_at_most_t2_apart():
    happened = run(ClientNonInvite(TIMERS, PEER, b"BYE", 0.0))
    assert times(happened) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert happened[-1] == (32.0, None)


def test_a_provisional_response_slows_timer_e_to_t2_and_keeps_timer_f():
    transaction = ClientNonInvite(TIMERS, PEER, b"BYE", 0.0)
    assert transaction.received(100, 0.2) is False
    assert times(run(transaction)) == [4.2, 8.2, 12.2, 16.2, 20.2, 24.2, 28.2]


def test_timer_k_absorbs_repeated_finals_for_t4():
    transaction = ClientNonInvite(TIMERS, PEER, b"BYE", 0.0)
    assert transaction.received(200, 1.0) is True
    assert not transaction.accepts(200)
    assert run(transaction) == [(6.0, None)]


def test_timer_d_keeps_a_rejected_invite_32_seconds():
    transaction = ClientInvite(TIMERS, PEER, b"INVITE", 0.0, HEAD)
    assert transaction.received(486, 1.0) is True
    assert transaction.received(486, 2.0) is False
    assert run(transaction) == [(33.0, None)]


def test_timer_m_passes_every_2xx_up():
    transaction = ClientInvite(TIMERS, PEER, b"INVITE", 0.0, HEAD)
    assert transaction.received(180, 1.0) is True
    assert transaction.deadline() is None
    assert transaction.received(200, 2.0) is True
    assert transaction.received(200, 3.0) is True
    assert run(transaction) == [(34.0, None)]


def test_timers_g_and_h_repeat_a_rejection_until_the_ack():
    transaction = ServerInvite(TIMERS, PEER)
    transaction.respond(486, b"486", 0.0)
    assert times(run(transaction)) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


def test_timer_i_absorbs_acks_for_t4():
    transaction = ServerInvite(TIMERS, PEER)
    transaction.respond(486, b"486", 0.0)
    transaction.acknowledged(0.2)
    transaction.acknowledged(0.3)
    assert transaction.repeated(0.4) is None
    assert run(transaction) == [(5.2, None)]


def test_timer_l_absorbs_invites_after_a_2xx():
    transaction = ServerInvite(TIMERS, PEER)
    transaction.respond(200, b"200", 0.0)
    assert transaction.repeated(0.4) == b"200"
    transaction.forget_response()
    assert transaction.repeated(0.5) is None
    assert run(transaction) == [(32.0, None)]


def test_timer_j_replays_the_final_response():
    transaction = ServerNonInvite(TIMERS, PEER)
    transaction.respond(200, b"200", 0.0)
    assert transaction.repeated(31.0) == b"200"
    assert run(transaction) == [(32.0, None)]


def test_illegal_input_raises_and_changes_nothing():
    transaction = ServerInvite(TIMERS, PEER)
    with pytest.raises(SipStateError):
        transaction.acknowledged(0.0)
    transaction.respond(200, b"200", 0.0)
    before = (transaction.state, transaction.deadline())
    with pytest.raises(SipStateError):
        transaction.respond(486, b"486", 1.0)
    assert (transaction.state, transaction.deadline()) == before
    assert transaction.expire(1.0) == Expiry()


def test_a_cancelled_invite_is_given_up_after_64_t1():
    transaction = ClientInvite(TIMERS, PEER, b"INVITE", 0.0, HEAD)
    transaction.received(180, 1.0)
    transaction.cancelled(2.0)
    assert run(transaction) == [(34.0, None)]


def test_deadlines_keep_the_latest_time_of_each_key_and_stay_small():
    deadlines: Deadlines[str] = Deadlines()
    for at in range(1000):
        deadlines.set("a", float(at))
    deadlines.set("b", 5.0)
    deadlines.set("c", 6.0)
    deadlines.set("c", None)
    assert len(deadlines._heap) < 100
    assert deadlines.earliest() == 5.0
    assert deadlines.pop_due(4.0) is None
    assert deadlines.pop_due(2000.0) == "b"
    assert deadlines.pop_due(2000.0) == "a"
    assert deadlines.pop_due(2000.0) is None
    assert deadlines.earliest() is None
