"""Inside a confirmed call: session timers, UPDATE, hold from either side, and offers that cross."""

import pytest

from libs.sip.errors import SdpError, SipStateError
from libs.sip.events import Answered, EndCause, Ended, ReinviteRejected, Send, SessionChanged
from libs.sip.message import parse
from libs.sip.sdp import Direction, SessionDescription
from libs.sip.session_timer import SessionExpires, SessionTimer, agreed_by_callee

from .link import ANSWER, CALLEE, CALLER, OFFER, Link, agent
from .test_inbound_calls import invite, replies
from .test_outbound_calls import is_request, placed, response_to

SHORT = 90  # seconds, the shortest interval there is


# -- session timers ----------------------------------------------------------------------------------------------------


def test_the_header_is_read_as_peers_write_it():
    assert SessionExpires.of({"session-expires": ["1800 ; Refresher = UAS ;x"]}) == SessionExpires(1800, "uas")
    assert SessionExpires.of({"session-expires": ["90"]}) == SessionExpires(90)
    for broken in ("", "x", "0", "-1", "9" * 12):
        assert SessionExpires.of({"session-expires": [broken]}) is None
    assert SessionExpires.of({}) is None


@pytest.mark.parametrize(
    ("asked", "supports", "agreed"),
    [
        (None, True, None),
        (SessionExpires(1800), True, SessionExpires(1800, "uac")),
        (SessionExpires(1800, "uas"), True, SessionExpires(1800, "uas")),
        # a proxy asked for it: the caller cannot refresh and cannot be told that the interval is too small
        (SessionExpires(1800, "uac"), False, SessionExpires(1800, "uas")),
        (SessionExpires(60), False, SessionExpires(90, "uas")),
    ],
)
def test_the_callee_decides_by_the_table_of_rfc_4028(asked, supports, agreed):
    assert agreed_by_callee(asked, supports, None) == agreed


def test_a_request_without_the_header_keeps_a_timer_that_runs_with_its_roles():
    assert agreed_by_callee(None, True, SessionTimer.start(300, True, 0.0)) == SessionExpires(300, "uas")
    assert agreed_by_callee(None, True, SessionTimer.start(300, False, 0.0)) == SessionExpires(300, "uac")


def test_a_call_between_two_of_us_is_refreshed_by_the_caller_at_half_time_by_update_without_troubling_anybody():
    link = Link(session_expires_s=SHORT)
    ours, _ = link.establish()
    told = [*link.at_caller], [*link.at_callee]
    link.run(1000)
    updates = link.sent("caller", "UPDATE")
    assert [round(at) for at in link.sent_at("caller", "UPDATE")][:3] == [45, 90, 135]
    assert updates[0].body == b""
    assert updates[0].header("session-expires") == "90;refresher=uac"
    assert link.sent("callee", "UPDATE") == []
    assert link.sent("callee", 200)[-1].header("session-expires") == "90;refresher=uac"
    assert "timer" in link.sent("callee", 200)[-1].header("require")
    assert (link.at_caller, link.at_callee) == told
    link.caller_does(link.caller.bye(ours, link.now))
    link.run(40)
    assert link.caller.deadline() is None
    assert link.callee.deadline() is None


def test_a_peer_that_stops_refreshing_is_hung_up_a_third_before_the_end():
    link = Link(session_expires_s=SHORT)
    _ours, theirs = link.establish()
    link.lose = lambda sender, message: sender == "caller"
    link.run(61)
    assert link.at_callee[-1] == Ended(theirs, EndCause.TRANSACTION_TIMEOUT, 408, "session timer expired")
    bye = link.sent("callee", "BYE")[0]
    assert bye.header("reason") == 'SIP;cause=408;text="session timer expired"'


def test_a_refresh_that_nobody_answers_ends_the_call_on_our_side_too():
    link = Link(session_expires_s=SHORT)
    ours, _ = link.establish()
    link.lose = lambda sender, message: sender == "callee"
    link.run(100)
    assert [a for a in link.at_caller if isinstance(a, Ended)] == [
        Ended(ours, EndCause.TRANSACTION_TIMEOUT, 408, "session timer expired")
    ]
    assert link.caller.active_dialogs == 0


def test_the_callee_refreshes_when_it_is_told_to_and_by_reinvite_where_update_is_not_allowed():
    core = agent(CALLEE, "s")
    asking = "Max-Forwards: 70\r\nSupported: timer\r\nSession-Expires: 90;refresher=uas\r\nAllow: INVITE, BYE\r\n"
    call = core.receive(invite(headers=asking), CALLER, 0.0)[-1]
    (ok,) = replies(core.answer(call.dialog, ANSWER, 0.0))
    assert (ok.header("session-expires"), ok.header("require")) == ("90;refresher=uas", "")
    ack = invite().replace(b"INVITE", b"ACK").replace(b"branch=z9hG4bKabc", b"branch=z9hG4bKack")
    ack = ack.replace(b"To: <sip:bestellung@192.0.2.20>", f"To: {ok.to.text}".encode())
    core.receive(ack, CALLER, 0.1)
    (sent,) = core.expire(45.0)
    refresh = parse(sent.data)
    assert (refresh.method, refresh.header("session-expires")) == ("INVITE", "90;refresher=uac")
    assert SessionDescription.parse(refresh.body.decode()) == SessionDescription.parse(ANSWER)
    extra = "Contact: <sip:a@192.0.2.10>\r\nSession-Expires: 90;refresher=uac\r\nContent-Type: application/sdp\r\n"
    answered = response_to(sent.data, "200 OK", "f1", extra, OFFER).replace(b";tag=f1;tag=f1", b";tag=f1")
    confirmed, changed = core.receive(answered, CALLER, 45.1)
    assert parse(confirmed.data).method == "ACK"
    assert isinstance(changed, SessionChanged)
    assert core.deadline() > 45.1
    assert [parse(a.data).method for a in core.expire(90.2) if isinstance(a, Send)] == ["INVITE"]


def test_an_interval_that_is_too_small_gets_422_and_ours_is_raised_by_one():
    core = agent(CALLEE, "s")
    asking = "Max-Forwards: 70\r\nSupported: timer\r\nSession-Expires: 60\r\n"
    (refused,) = replies(core.receive(invite(headers=asking), CALLER, 0.0))
    assert (refused.status, refused.header("min-se")) == (422, "90")
    caller = agent(CALLER, "c")
    _, sent = placed(caller)
    assert (parse(sent).header("session-expires"), parse(sent).header("min-se")) == ("1800", "")
    too_small = response_to(sent, "422 Too Small", "t", "Min-SE: 3600\r\n")
    ack, again = caller.receive(too_small, CALLEE, 0.1)
    request = parse(again.data)
    assert (request.header("session-expires"), request.header("min-se"), request.cseq) == ("3600", "3600", 2)
    last = caller.receive(response_to(again.data, "422 Too Small", "t", "Min-SE: 3600\r\n"), CALLEE, 0.2)
    assert last[-1].status == 422
    assert caller.receive(too_small, CALLEE, 0.3) == [ack]


def test_a_peer_that_asks_for_ever_longer_intervals_is_not_followed_for_ever():
    core = agent(CALLER, "c")
    _, sent = placed(core)
    for number in range(5):
        longer = response_to(sent, "422 Too Small", "t", f"Min-SE: {2000 + number}\r\n")
        sent = core.receive(longer, CALLEE, 0.1)[-1].data
    last = core.receive(response_to(sent, "422 Too Small", "t", "Min-SE: 3000\r\n"), CALLEE, 0.2)
    assert last[-1].status == 422


def test_a_refresh_that_is_too_small_for_the_peer_is_raised():
    core = agent(CALLER, "c")
    _dialog, sent = placed(core)
    answered_by_hand(core, sent, ANSWER)
    (refresh,) = core.expire(45.2)
    too_small = response_to(refresh.data, "422 Too Small", "t", "Min-SE: 120\r\n").replace(b";tag=t;tag=t", b";tag=t")
    ack, again = core.receive(too_small, CALLEE, 45.3)
    assert parse(ack.data).method == "ACK"
    assert parse(again.data).header("session-expires") == "120;refresher=uac"
    assert parse(again.data).header("min-se") == "120"


def test_a_callee_without_session_timers_gets_none_and_zero_asks_for_none():
    core = agent(CALLER, "c", session_expires_s=0)
    dialog, sent = placed(core)
    assert parse(sent).header("session-expires") == ""
    core.receive(response_to(sent, "200 OK", "t", "Contact: <sip:x@192.0.2.20>\r\n"), CALLEE, 0.1)
    core.expire(40.0)
    assert core.deadline() is None
    core.bye(dialog, 41.0)


# -- UPDATE and hold ---------------------------------------------------------------------------------------------------


def direction_of(session: SessionDescription) -> Direction:
    return session.direction(session.media[0])


def test_hold_and_resume_by_either_side_reach_the_other_mirrored():
    link = Link()
    ours, theirs = link.establish()
    link.caller_does(link.caller.hold(ours, link.now))
    changed, answered = link.at_callee[-1], link.at_caller[-1]
    assert isinstance(changed, SessionChanged)
    assert isinstance(answered, Answered)
    assert (changed.negotiated.direction, direction_of(answered.sdp)) == (Direction.RECVONLY, Direction.RECVONLY)
    # both hold: the second offer is answered with no more than our own hold allows
    link.callee_does(link.callee.hold(theirs, link.now))
    assert direction_of(link.at_callee[-1].sdp) is Direction.INACTIVE
    link.callee_does(link.callee.resume(theirs, link.now))
    assert direction_of(link.at_callee[-1].sdp) is Direction.SENDONLY
    link.caller_does(link.caller.resume(ours, link.now))
    assert link.at_callee[-1].negotiated.direction is Direction.SENDRECV
    versions = [SessionDescription.parse(m.body.decode()).session_version for m in link.sent("caller", "INVITE")]
    assert versions == sorted(set(versions))


def answered_by_hand(core, sent: bytes, sdp: str, expires: str = "90;refresher=uac") -> list:
    headers = f"Contact: <sip:x@192.0.2.20>\r\nSession-Expires: {expires}\r\nContent-Type: application/sdp\r\n"
    return core.receive(response_to(sent, "200 OK", "t", headers, sdp).replace(b";tag=t;tag=t", b";tag=t"), CALLEE, 0.2)


def peer_of(sent: bytes):
    """Requests of the side that answered this INVITE."""
    to, from_ = parse(sent).from_.text, f"{parse(sent).to.text};tag=t"

    def from_peer(method: str, cseq: int, sdp: str = "", extra: str = "") -> bytes:
        content = "Content-Type: application/sdp\r\n" if sdp else ""
        return (
            f"{method} sip:callbus@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bKp{cseq}{method}\r\n"
            f"From: {from_}\r\nTo: {to}\r\nCall-ID: {parse(sent).call_id}\r\nCSeq: {cseq} {method}\r\n{extra}"
            f"Contact: <sip:x@192.0.2.20>\r\n{content}Content-Length: {len(sdp)}\r\n\r\n{sdp}"
        ).encode()

    return from_peer


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_an_interval_that_is_too_small_is_refused_inside_a_call_too(method):
    core = agent(CALLER, "c")
    _dialog, sent = placed(core)
    answered_by_hand(core, sent, ANSWER)
    asking = "Supported: timer\r\nSession-Expires: 30\r\n"
    (refused,) = replies(core.receive(peer_of(sent)(method, 1, ANSWER, asking), CALLEE, 1.0))
    assert (refused.status, refused.header("min-se")) == (422, "90")


def test_a_session_that_expires_while_our_2xx_waits_for_its_ack_is_hung_up_after_the_ack():
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    answered_by_hand(core, sent, ANSWER, "30;refresher=uas")  # less than the standard allows
    core.receive(peer_of(sent)("INVITE", 1, ANSWER), CALLEE, 5.0)
    actions = core.expire(26.0)
    assert actions[-1] == Ended(dialog, EndCause.TRANSACTION_TIMEOUT, 408, "session timer expired")
    assert not [a for a in actions if isinstance(a, Send) and a.data.startswith(b"BYE")]
    (bye,) = core.receive(peer_of(sent)("ACK", 1), CALLEE, 26.5)
    assert parse(bye.data).method == "BYE"


def test_a_refresh_that_fails_is_tried_again_and_one_that_meets_an_open_offer_waits():
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    answered_by_hand(core, sent, ANSWER)
    (refresh,) = core.expire(45.2)
    core.receive(response_to(refresh.data, "500 Later", "t").replace(b";tag=t;tag=t", b";tag=t"), CALLEE, 45.3)
    core.expire(50.0)
    again = [a for a in core.expire(55.4) if isinstance(a, Send)]
    assert parse(again[-1].data).header("session-expires") == "90;refresher=uac"
    answered_by_hand(core, again[-1].data, ANSWER)
    offer = core.reinvite(dialog, OFFER, 1.0)[0]
    core.receive(response_to(offer.data, "100 Trying", "t").replace(b";tag=t;tag=t", b";tag=t"), CALLEE, 1.1)
    assert core.expire(46.0) == []


def test_a_refresh_while_the_peer_holds_us_does_not_make_its_hold_ours():
    core = agent(CALLER, "c")
    _dialog, sent = placed(core)
    answered_by_hand(core, sent, ANSWER)
    from_peer = peer_of(sent)

    def direction_answered(cseq: int, sdp: str) -> Direction:
        (ok,) = replies(core.receive(from_peer("INVITE", cseq, sdp), CALLEE, 0.3))
        core.receive(from_peer("ACK", cseq, "" if sdp else ANSWER), CALLEE, 0.4)
        return direction_of(SessionDescription.parse(ok.body.decode()))

    held = ANSWER.replace("a=sendrecv", "a=sendonly")
    assert direction_answered(1, held) is Direction.RECVONLY
    (refresh,) = core.expire(46.0)
    assert direction_of(SessionDescription.parse(parse(refresh.data).body.decode())) is Direction.RECVONLY
    answered_by_hand(core, refresh.data, held)
    assert direction_answered(2, ANSWER) is Direction.SENDRECV
    assert direction_answered(3, held) is Direction.RECVONLY
    # resumed by asking us for an offer
    assert direction_answered(4, "") is Direction.SENDRECV


def test_update_changes_the_session_without_ack():
    link = Link()
    ours, _ = link.establish()
    held = OFFER.replace("a=sendrecv", "a=sendonly")
    acks = len(link.sent("caller", "ACK"))
    link.caller_does(link.caller.update(ours, held, link.now))
    assert link.at_callee[-1].negotiated.direction is Direction.RECVONLY
    assert isinstance(link.at_caller[-1], Answered)
    assert len(link.sent("caller", "ACK")) == acks


def test_update_is_not_sent_to_a_peer_that_does_not_allow_it_nor_beside_another_offer():
    link = Link()
    ours, theirs = link.establish()
    link.lose = lambda sender, message: True
    link.caller_does(link.caller.update(ours, OFFER, link.now))
    for command in (link.caller.update, link.caller.reinvite):
        with pytest.raises(SipStateError):
            command(ours, OFFER, link.now)
    with pytest.raises(SdpError):
        link.callee.update(theirs, "not SDP", link.now)
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    core.receive(response_to(sent, "200 OK", "t", "Contact: <sip:x@192.0.2.20>\r\nAllow: INVITE\r\n"), CALLEE, 0.1)
    with pytest.raises(SipStateError):
        core.update(dialog, OFFER, 0.2)


def test_an_update_that_nobody_answers_ends_the_call():
    link = Link()
    ours, _ = link.establish()
    link.lose = lambda sender, message: sender == "callee"
    link.caller_does(link.caller.update(ours, OFFER, link.now))
    link.run(33)
    assert link.at_caller[-1] == Ended(ours, EndCause.TRANSACTION_TIMEOUT, 408, "UPDATE unanswered")


# -- glare -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["reinvite", "update"])
def test_offers_that_cross_meet_491_and_both_get_through_after_their_random_wait(method):
    link = Link()
    ours, theirs = link.establish()
    start = link.now
    ours_sent = getattr(link.caller, method)(ours, OFFER, link.now)
    theirs_sent = getattr(link.callee, method)(theirs, ANSWER, link.now)
    link._take("caller", ours_sent)
    link._take("callee", theirs_sent)
    link.settle()
    assert [m.status for m in link.sent("caller", 491) + link.sent("callee", 491)] == [491, 491]
    with pytest.raises(SipStateError):
        link.caller.hold(ours, link.now)
    link.run(10)
    what = "INVITE" if method == "reinvite" else "UPDATE"
    # RFC 3261 §14.1: the owner of the Call-ID waits 2.1 to 4 s, the other side up to 2 s
    (again_caller,) = [at for at in link.sent_at("caller", what) if at > start - 100]
    (again_callee,) = [at for at in link.sent_at("callee", what) if at > start - 100]
    assert 2.1 <= again_caller <= 4.0
    assert 0.0 < again_callee <= 2.0
    assert isinstance(link.at_caller[-1], Answered)
    assert any(isinstance(event, Answered) for event in link.at_callee)
    assert not [e for e in link.at_caller + link.at_callee if isinstance(e, ReinviteRejected | Ended)]


def test_descriptions_are_numbered_upwards_when_holds_cross():
    link = Link()
    ours, theirs = link.establish()
    crossing = link.caller.hold(ours, link.now), link.callee.hold(theirs, link.now)
    link._take("caller", crossing[0])
    link._take("callee", crossing[1])
    link.settle()
    link.run(10)
    for side in ("caller", "callee"):
        bodies = [m.body for _, s, m in link.wire if s == side and m.body.startswith(b"v=0")]
        versions = [SessionDescription.parse(body.decode()).session_version for body in dict.fromkeys(bodies)]
        assert versions == sorted(versions)
        assert versions[-1] > versions[-2]
    assert direction_of(link.at_caller[-1].sdp) is Direction.INACTIVE


def test_a_peer_that_says_491_for_ever_is_asked_six_times():
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    core.receive(response_to(sent, "200 OK", "t", "Contact: <sip:x@192.0.2.20>\r\n"), CALLEE, 0.1)
    now, count, told = 0.2, 0, []
    actions = core.reinvite(dialog, OFFER, now)
    while not told:
        count += 1
        offer = next(a.data for a in actions if isinstance(a, Send) and a.data.startswith(b"INVITE"))
        pending = response_to(offer, "491 Pending", "t").replace(b";tag=t;tag=t", b";tag=t")
        told = [a for a in core.receive(pending, CALLEE, now) if not isinstance(a, Send)]
        if not told:
            now = core.deadline()
            actions = core.expire(now)
    assert (count, told) == (6, [ReinviteRejected(dialog, 491, "Pending")])


def test_an_offer_that_waits_is_forgotten_with_the_call():
    link = Link()
    ours, theirs = link.establish()
    link._take("caller", link.caller.reinvite(ours, OFFER, link.now))
    link._take("callee", link.callee.reinvite(theirs, ANSWER, link.now))
    link.settle()
    link.caller_does(link.caller.bye(ours, link.now))
    link.run(60)
    assert link.caller.deadline() is None
    assert not [m for m in link.sent("caller", "INVITE") if is_request(m, "INVITE")][2:]
