"""Blind and attended transfer by REFER, from both ends."""

import pytest

from libs.sip.errors import SipParseError, SipStateError
from libs.sip.events import Ended, ReferAnswered, Send, TransferProgress, TransferRequested
from libs.sip.message import parse

from .link import CALLEE, CALLER, Link
from .test_outbound_calls import is_request

TARGET = "sip:+4940123@example.com"


def transferring(**settings) -> tuple[Link, str, str]:
    link = Link(accepts_refer=True, **settings)
    ours, theirs = link.establish()
    return link, ours, theirs


def test_a_transfer_is_asked_for_accepted_followed_and_done():
    link, ours, theirs = transferring()
    link.caller_does(link.caller.refer(ours, TARGET, link.now, referred_by="sip:agent@example.com"))
    refer = link.sent("caller", "REFER")[0]
    assert (refer.header("refer-to"), refer.header("referred-by")) == (f"<{TARGET}>", "<sip:agent@example.com>")
    assert link.sent("callee", 202)
    request = link.at_callee[-1]
    assert request == TransferRequested(theirs, request.target, "sip:agent@example.com", "", True)
    assert str(request.target) == TARGET
    with pytest.raises(SipStateError):
        link.caller.refer(ours, TARGET, link.now)
    link.callee_does(link.callee.notify_transfer(theirs, 180, link.now))
    link.callee_does(link.callee.notify_transfer(theirs, 200, link.now))
    assert link.callee.notify_transfer(theirs, 200, link.now) == []
    assert link.at_caller[-4:] == [
        ReferAnswered(ours, 202, "Accepted"),
        TransferProgress(ours, 100, "Trying", False),
        TransferProgress(ours, 180, "Ringing", False),
        TransferProgress(ours, 200, "OK", True),
    ]
    first, _, last = link.sent("callee", "NOTIFY")
    assert first.header("event") == f"refer;id={refer.cseq}"
    assert first.header("subscription-state") == "active;expires=60"
    assert last.header("subscription-state") == "terminated;reason=noresource"
    assert last.header("content-type") == "message/sipfrag;version=2.0"
    assert link.caller.active_dialogs == link.callee.active_dialogs == 1
    # a second transfer may follow a first one
    link.caller_does(link.caller.refer(ours, TARGET, link.now))
    link.callee_does(link.callee.notify_transfer(theirs, 486, link.now, "Busy\r\nHere"))
    assert link.at_caller[-1] == TransferProgress(ours, 486, "Busy Here", True)


def test_an_attended_transfer_names_the_call_that_it_replaces():
    link, ours, _ = transferring()
    target = "sip:b@example.com?Replaces=abc%40host%3Bto-tag%3D1%3Bfrom-tag%3D2"
    link.caller_does(link.caller.refer(ours, target, link.now))
    assert link.at_callee[-1].replaces == "abc@host;to-tag=1;from-tag=2"


def test_a_transfer_that_is_not_wanted_is_declined_reported_on_both_sides_and_the_call_goes_on():  # 19
    link = Link()
    ours, theirs = link.establish()
    link.caller_does(link.caller.refer(ours, TARGET, link.now))
    assert link.at_caller[-1] == ReferAnswered(ours, 603, "Decline")
    assert not link.at_caller[-1].is_accepted
    assert link.at_callee[-1].is_accepted is False
    assert link.callee.notify_transfer(theirs, 200, link.now) == []
    assert link.caller.active_dialogs == 1
    link.caller_does(link.caller.refer(ours, TARGET, link.now))


def test_a_refer_that_nobody_answers_is_reported_and_the_call_goes_on():  # 19
    link, ours, _ = transferring()
    link.lose = lambda sender, message: is_request(message, "REFER")
    link.caller_does(link.caller.refer(ours, TARGET, link.now))
    link.run(33)
    assert link.at_caller[-1] == ReferAnswered(ours, 408, "no answer to REFER")
    assert link.caller.active_dialogs == 1


def in_dialog(link: Link, method: str, cseq: int, headers: str, body: str = "") -> list:
    """A request of the callee's side written by hand, received by the caller."""
    ack = link.sent("caller", "ACK")[0]
    data = (
        f"{method} sip:callbus@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bKh{cseq}\r\n"
        f"From: {ack.to.text}\r\nTo: {ack.from_.text}\r\nCall-ID: {ack.call_id}\r\nCSeq: {cseq} {method}\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n{body}"
    )
    return link.caller.receive(data.encode(), CALLEE, link.now)


def status(actions) -> int:
    return next(parse(a.data).status for a in actions if isinstance(a, Send))


@pytest.mark.parametrize(
    ("state", "body", "progress"),
    [
        ("active", "SIP/2.0 183 Session Progress\r\nX: y\r\n", (183, "Session Progress", False)),
        ("active;expires=9", "sip/2.0 503 Service Unavailable", (503, "Service Unavailable", True)),
        ("terminated;reason=timeout", "", (0, "the subscription ended without a result", True)),
        ("TERMINATED", "SIP/2.0 100 Trying", (0, "the subscription ended without a result", True)),
        ("active", "nonsense", None),
    ],
)
def test_fragments_are_read_as_peers_send_them(state, body, progress):
    link, ours, _ = transferring()
    link.lose = lambda sender, message: sender == "caller"
    link.caller_does(link.caller.refer(ours, TARGET, link.now))
    actions = in_dialog(link, "NOTIFY", 50, f"Event: Refer;id=2\r\nSubscription-State: {state}\r\n", body)
    assert status(actions) == 200
    assert [a for a in actions if not isinstance(a, Send)] == ([TransferProgress(ours, *progress)] if progress else [])
    if progress and progress[2]:
        # what still comes after the final one is answered and not told
        late = in_dialog(link, "NOTIFY", 51, "Event: refer\r\nSubscription-State: terminated\r\n", "SIP/2.0 200 OK")
        assert [status(late), len(late)] == [200, 1]


def test_a_notify_that_nobody_asked_for_is_refused():
    link, _ours, _ = transferring()
    assert status(in_dialog(link, "NOTIFY", 50, "Event: refer\r\nSubscription-State: active\r\n")) == 481
    assert status(in_dialog(link, "NOTIFY", 51, "Event: presence\r\nSubscription-State: active\r\n")) == 489


@pytest.mark.parametrize("headers", ["", "Refer-To: <sip:a@b>\r\nRefer-To: <sip:c@d>\r\n", "Refer-To: nobody\r\n"])
def test_a_refer_without_one_readable_target_is_a_bad_request(headers):
    link, _ours, _ = transferring()
    assert status(in_dialog(link, "REFER", 50, headers)) == 400


def test_one_transfer_at_a_time_is_asked_of_us():
    link, _ours, _ = transferring()
    assert status(in_dialog(link, "REFER", 50, f"Refer-To: {TARGET}\r\n")) == 202
    assert status(in_dialog(link, "REFER", 51, f"Refer-To: {TARGET}\r\n")) == 491


def test_a_refer_outside_a_call_is_forbidden():
    link = Link(accepts_refer=True)
    data = (
        f"REFER sip:callbus@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKr\r\n"
        f"From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: r\r\nCSeq: 1 REFER\r\nRefer-To: {TARGET}\r\n\r\n"
    )
    assert status(link.callee.receive(data.encode(), CALLER, 0.0)) == 403


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_peer_that_does_not_want_to_hear_loses_its_subscription_and_keeps_its_call(is_lost):
    link, ours, theirs = transferring()
    lost = link.lose
    link.lose = lambda sender, message: is_request(message, "NOTIFY") and is_lost
    if not is_lost:
        link.caller._dialogs[ours].referral_open = False  # forgotten, as a restarted peer does: 481
    actions = in_dialog_to_callee(link, "REFER", 50, f"Refer-To: <{TARGET}>\r\n")
    link.callee_does(actions)
    link.run(33)
    assert link.callee.active_dialogs == 1
    assert link.callee.notify_transfer(theirs, 200, link.now) == []
    link.lose = lost
    assert status(in_dialog_to_callee(link, "REFER", 51, f"Refer-To: <{TARGET}>\r\n")) == 202


def in_dialog_to_callee(link: Link, method: str, cseq: int, headers: str) -> list:
    ack = link.sent("caller", "ACK")[0]
    data = (
        f"{method} sip:callbus@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKi{cseq}\r\n"
        f"From: {ack.from_.text}\r\nTo: {ack.to.text}\r\nCall-ID: {ack.call_id}\r\nCSeq: {cseq} {method}\r\n"
        f"{headers}\r\n"
    )
    return link.callee.receive(data.encode(), CALLER, link.now)


def test_a_transfer_that_cannot_be_asked_raises_and_changes_nothing():
    link, ours, _ = transferring()
    with pytest.raises(SipParseError):
        link.caller.refer(ours, "nobody", link.now)
    with pytest.raises(SipStateError):
        link.caller.refer("unknown", TARGET, link.now)
    assert link.sent("caller", "REFER") == []


def test_a_peer_that_hangs_up_during_its_transfer_ends_the_call_once():
    link, ours, theirs = transferring()
    link.caller_does(link.caller.refer(ours, TARGET, link.now))
    link.callee_does(link.callee.bye(theirs, link.now))
    assert isinstance(link.at_caller[-1], Ended)
    assert link.callee.notify_transfer(theirs, 200, link.now) == []
