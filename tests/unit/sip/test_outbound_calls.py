import pytest

from libs.sip.errors import SipParseError, SipStateError
from libs.sip.events import Answered, EndCause, Ended, IncomingCall, ReinviteRejected, Rejected, Ringing, Send
from libs.sip.message import Request, parse
from libs.sip.user_agent import OutgoingCall

from .link import ANSWER, CALLEE, CALLER, OFFER, Link, agent


def is_request(message, method: str) -> bool:
    return isinstance(message, Request) and message.method == method


def response_to(invite: bytes, status: str, tag: str = "t1", headers: str = "", body: str = "") -> bytes:
    sent = parse(invite)
    return (
        f"SIP/2.0 {status}\r\nVia: {sent.via.text};received=192.0.2.10\r\nFrom: {sent.from_.text}\r\n"
        f"To: {sent.to.text};tag={tag}\r\nCall-ID: {sent.call_id}\r\nCSeq: {sent.cseq} {sent.method}\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def placed(core):
    dialog, (sent,) = core.invite(OutgoingCall("sip:b@example.com", CALLEE, "sip:a@example.com", "", OFFER), 0.0)
    return dialog, sent.data


def test_a_lost_invite_is_repeated_at_doubling_intervals_and_given_up_after_64_t1():  # 12
    link = Link()
    link.lose = lambda sender, message: True
    ours = link.place()
    link.run(40)
    assert link.sent_at("caller", "INVITE") == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert link.at_caller == [Ended(ours, EndCause.TRANSACTION_TIMEOUT, 408, "no final response")]
    assert link.caller.deadline() is None


def test_the_first_invite_lost_costs_half_a_second():
    link = Link()
    link.lose = lambda sender, message: len(link.wire) == 1
    link.place()
    link.run(0.6)
    assert isinstance(link.at_callee[0], IncomingCall)


@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required", "486 Busy Here"])
def test_failures_are_acknowledged_on_the_invites_branch_with_the_responses_tag_and_again_when_repeated(
    status,
):  # 13, 14
    core = agent(CALLER, "c")
    _dialog, sent = placed(core)
    failure = response_to(sent, status, "their-tag")
    ack, rejected = core.receive(failure, CALLEE, 0.1)
    message = parse(ack.data)
    assert (message.method, message.via.branch) == ("ACK", parse(sent).via.branch)
    assert message.to.tag == "their-tag"
    assert message.cseq == 1
    assert ack.destination == CALLEE
    assert isinstance(rejected, Rejected)
    assert rejected.status == int(status[:3])
    assert core.receive(failure, CALLEE, 0.7) == [ack]
    core.expire(40.0)
    assert core.deadline() is None


def test_a_200_that_crosses_our_cancel_is_acknowledged_and_ended_with_bye():  # 15
    link = Link()
    ours = link.place()
    link.callee_does(link.callee.ring(link.incoming(), link.now))
    cancel = link.caller.cancel(ours, link.now)
    link.callee_does(link.callee.answer(link.incoming(), ANSWER, link.now))
    link.caller_does(cancel)
    methods = [m.method for _, s, m in link.wire if s == "caller"]
    assert methods == ["INVITE", "ACK", "BYE", "CANCEL"]
    assert link.at_caller[-1] == Ended(ours, EndCause.LOCAL_CANCEL, 200, "OK")
    assert link.at_callee[-1].cause is EndCause.REMOTE_BYE
    link.run(70)
    assert link.caller.deadline() is None


def test_cancel_waits_for_the_first_provisional_response():
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    assert core.cancel(dialog, 0.1) == []
    (cancel,) = core.receive(response_to(sent, "180 Ringing"), CALLEE, 0.2)
    message, original = parse(cancel.data), parse(sent)
    assert message.method == "CANCEL"
    assert message.via.text == original.via.text
    assert (str(message.uri), message.to.text, message.cseq) == (str(original.uri), original.to.text, 1)
    assert core.cancel(dialog, 0.3) == []
    assert core.bye(dialog, 0.3) == []


def test_a_cancel_that_nobody_answers_ends_the_call_after_64_t1():
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    core.receive(response_to(sent, "180 Ringing"), CALLEE, 0.2)
    core.bye(dialog, 1.0)
    ended = []
    while (at := core.deadline()) is not None:
        ended += [a for a in core.expire(at) if isinstance(a, Ended)]
    assert ended == [Ended(dialog, EndCause.LOCAL_CANCEL, None, "no answer to CANCEL")]


def test_ack_and_bye_take_contact_route_set_and_tag_of_the_200():  # 16, 17
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    headers = (
        "Record-Route: <sip:192.0.2.51;lr>, <sip:192.0.2.52:5062;lr>\r\nRecord-Route: <sip:192.0.2.53:5063;lr>\r\n"
        "Contact: <sip:moved@198.51.100.7:5070>\r\nContent-Type: application/sdp\r\n"
    )
    ok = response_to(sent, "200 OK", "their-tag", headers, ANSWER)
    ack, answered = core.receive(ok, CALLEE, 1.0)
    assert isinstance(answered, Answered)
    assert answered.sdp is not None
    message = parse(ack.data)
    assert str(message.uri) == "sip:moved@198.51.100.7:5070"
    route = ["<sip:192.0.2.53:5063;lr>", "<sip:192.0.2.52:5062;lr>", "<sip:192.0.2.51;lr>"]
    assert message.headers["route"] == route
    assert message.to.tag == "their-tag"
    assert message.via.branch != parse(sent).via.branch
    assert ack.destination == ("192.0.2.53", 5063)
    assert core.receive(ok, CALLEE, 1.5) == [ack]
    bye = core.bye(dialog, 2.0)[0]
    message = parse(bye.data)
    assert (str(message.uri), message.headers["route"]) == ("sip:moved@198.51.100.7:5070", route)
    assert message.to.tag == "their-tag"
    assert message.cseq == 2
    assert bye.destination == ("192.0.2.53", 5063)


def test_a_strict_router_swaps_places_with_the_target():
    core = agent(CALLER, "c")
    _, sent = placed(core)
    headers = "Record-Route: <sip:192.0.2.51>\r\nContact: <sip:moved@198.51.100.7>\r\n"
    ack = core.receive(response_to(sent, "200 OK", "t", headers), CALLEE, 1.0)[0]
    message = parse(ack.data)
    assert str(message.uri) == "sip:192.0.2.51"
    assert message.headers["route"] == ["<sip:moved@198.51.100.7>"]


def test_a_second_leg_of_a_forked_call_is_acknowledged_and_ended():
    core = agent(CALLER, "c")
    _, sent = placed(core)
    contact = "Contact: <sip:x@192.0.2.20>\r\n"
    core.receive(response_to(sent, "200 OK", "one", contact), CALLEE, 1.0)
    ack, bye = core.receive(response_to(sent, "200 OK", "two", contact), CALLEE, 1.1)
    assert parse(ack.data).to.tag == parse(bye.data).to.tag == "two"
    assert parse(bye.data).method == "BYE"


def test_a_200_after_the_call_was_hung_up_gets_its_ack_again():
    link = Link()
    ours, _ = link.establish()
    link.caller_does(link.caller.bye(ours, link.now))
    ok = next(m for m in link.sent("callee", 200) if m.method == "INVITE")
    assert ok.to.tag
    assert len(link.sent("caller", "ACK")) == 1


def test_a_provisional_response_with_early_media_is_told():
    link = Link()
    ours = link.place()
    link.callee_does(link.callee.progress(link.incoming(), ANSWER, link.now))
    ringing = link.at_caller[-1]
    assert isinstance(ringing, Ringing)
    assert (ringing.dialog, ringing.status) == (ours, 183)
    assert ringing.sdp is not None
    # a repeated BYE-free ring of hours is the application's decision: no timer runs
    link.run(300)
    assert link.caller.active_dialogs == 1


def test_a_lost_bye_is_repeated_and_then_forgotten():
    link = Link()
    ours, _ = link.establish()
    link.lose = lambda sender, message: is_request(message, "BYE")
    link.caller_does(link.caller.bye(ours, link.now))
    link.run(70)
    assert link.sent_at("caller", "BYE")[:6] == [0, 0.5, 1.5, 3.5, 7.5, 11.5]
    assert link.caller.deadline() is None


def test_a_rejected_reinvite_leaves_the_session():
    link = Link()
    ours, _ = link.establish()
    sdp = OFFER.replace("m=audio 40000 RTP/AVP 0 8 101", "m=audio 40000 RTP/SAVP 0")
    link.caller_does(link.caller.reinvite(ours, sdp, link.now))
    assert link.at_caller[-1] == ReinviteRejected(ours, 488, "Not Acceptable Here")
    assert link.caller.active_dialogs == 1


def test_calls_that_cannot_be_placed_raise_and_change_nothing():
    core = agent(CALLER, "c", max_dialogs=1)
    with pytest.raises(SipParseError):
        core.invite(OutgoingCall("not a uri", CALLEE, "sip:a@b"), 0.0)
    placed(core)
    with pytest.raises(SipStateError):
        placed(core)
    with pytest.raises(SipStateError):
        core.reinvite("c1", OFFER, 0.0)


def test_responses_that_belong_to_nothing_are_counted():
    core, other = agent(CALLER, "c"), agent(CALLER, "d")
    _, sent = placed(other)
    assert core.receive(response_to(sent, "200 OK"), CALLEE, 0.0) == []
    assert core.counters["stray_responses"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_calls_survive_random_loss_in_both_directions(seed):
    import random

    dice = random.Random(seed)
    link = Link()
    link.lose = lambda sender, message: dice.random() < 0.3
    ours = link.place()
    link.run(20)
    theirs = link.incoming()
    link.callee_does(link.callee.answer(theirs, ANSWER, link.now))
    link.run(20)
    link.caller_does(link.caller.bye(ours, link.now))
    link.run(100)
    assert any(isinstance(a, Answered) for a in link.at_caller)
    assert sum(isinstance(a, Ended) for a in link.at_caller) == 1
    assert sum(isinstance(a, Ended) for a in link.at_callee) == 1
    assert link.caller.deadline() is None
    assert link.callee.deadline() is None
    assert not [a for a in link.at_caller if isinstance(a, Send)]


# -- who calls, how long, and what else a call may meet ----------------------------------------------------------------


def place_with(core, **fields):
    call = OutgoingCall("sip:b@example.com", CALLEE, "sip:+4930@example.com", "Praxis", OFFER, **fields)
    dialog, (sent,) = core.invite(call, 0.0)
    return dialog, sent.data


def test_the_caller_is_named_asserted_or_hidden():
    _, sent = place_with(agent(CALLER, "c"), asserted_identity="sip:+4930@trunk.example")
    request = parse(sent)
    assert request.from_.display_name == "Praxis"
    assert request.header("p-asserted-identity") == "<sip:+4930@trunk.example>"
    _, sent = place_with(agent(CALLER, "c"), asserted_identity="tel:+4930", is_anonymous=True)
    request = parse(sent)
    assert (str(request.from_.uri), request.header("privacy")) == ("sip:anonymous@anonymous.invalid", "id")
    assert request.header("p-asserted-identity") == "<tel:+4930>"
    with pytest.raises(SipParseError):
        place_with(agent(CALLER, "c"), asserted_identity="nobody")


def test_an_outbound_proxy_stands_in_route_and_its_cancel_takes_the_same_way():
    core = agent(CALLER, "c")
    dialog, sent = place_with(core, route=("<sip:192.0.2.20;lr>",))
    assert parse(sent).headers["route"] == ["<sip:192.0.2.20;lr>"]
    assert str(parse(sent).uri) == "sip:b@example.com"
    core.cancel(dialog, 0.1)
    (cancel,) = core.receive(response_to(sent, "180 Ringing"), CALLEE, 0.2)
    assert parse(cancel.data).headers["route"] == ["<sip:192.0.2.20;lr>"]


def test_nobody_answers_within_the_ring_timeout():
    link = Link()
    ours = link.place(ring_timeout_s=20.0)
    link.callee_does(link.callee.ring(link.incoming(), link.now))
    link.run(19)
    assert link.sent("caller", "CANCEL") == []
    link.run(2)
    assert link.at_caller[-1] == Ended(ours, EndCause.NO_ANSWER, 487, "Request Terminated")
    assert link.sent_at("caller", "CANCEL") == [20.0]


def test_an_answer_in_time_stops_the_ring_timeout():
    link = Link()
    link.establish(ring_timeout_s=20.0)
    link.run(60)
    assert link.caller.active_dialogs == 1


def test_a_redirection_is_reported_with_its_contacts_and_not_followed():
    core = agent(CALLER, "c")
    _, sent = placed(core)
    moved = response_to(sent, "302 Moved", "t", "Contact: <sip:other@example.org>;q=0.7\r\n")
    ack, rejected = core.receive(moved, CALLEE, 0.1)
    assert parse(ack.data).method == "ACK"
    assert (rejected.status, rejected.headers["contact"]) == (302, ["<sip:other@example.org>;q=0.7"])
    assert core.active_dialogs == 0


@pytest.mark.parametrize(
    "status", [300, 305, 380, 400, 404, 410, 480, 484, 486, 487, 488, 500, 502, 503, 600, 603, 606]
)
def test_every_failure_ends_the_call_once_with_its_status(status):
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    core.receive(response_to(sent, "180 Ringing"), CALLEE, 0.1)
    _, rejected = core.receive(response_to(sent, f"{status} No"), CALLEE, 0.2)
    assert (rejected.dialog, rejected.status, rejected.reason) == (dialog, status, "No")


# -- reliable provisional responses (RFC 3262) -------------------------------------------------------------------------

RELIABLE = (
    "Require: 100rel\r\nRSeq: {rseq}\r\nContact: <sip:x@192.0.2.77:5090>\r\nRecord-Route: <sip:192.0.2.51;lr>\r\n"
)


def test_a_reliable_provisional_response_gets_its_prack_over_the_route_and_later_requests_count_on():
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    assert "100rel" in parse(sent).header("supported")
    sdp = "Content-Type: application/sdp\r\n"
    first = response_to(sent, "183 Session Progress", "t", RELIABLE.format(rseq=7) + sdp, ANSWER)
    prack, ringing = core.receive(first, CALLEE, 0.1)
    request = parse(prack.data)
    assert (request.method, str(request.uri), request.cseq) == ("PRACK", "sip:x@192.0.2.77:5090", 2)
    assert request.header("rack") == "7 1 INVITE"
    assert request.headers["route"] == ["<sip:192.0.2.51;lr>"]
    assert request.to.tag == "t"
    assert prack.destination == ("192.0.2.51", 5060)
    assert ringing.sdp is not None
    # repeated, and one out of order: no PRACK; the next in order: PRACK
    assert core.receive(first, CALLEE, 0.2) == []
    assert core.receive(response_to(sent, "180 Ringing", "t", RELIABLE.format(rseq=9)), CALLEE, 0.3) == []
    second, _ = core.receive(response_to(sent, "180 Ringing", "t", RELIABLE.format(rseq=8)), CALLEE, 0.4)
    assert (parse(second.data).header("rack"), parse(second.data).cseq) == ("8 1 INVITE", 3)
    # a PRACK that is lost is repeated like any request
    assert second in core.expire(0.95)
    core.receive(response_to(sent, "200 OK", "t", "Contact: <sip:x@192.0.2.77:5090>\r\n"), CALLEE, 1.0)
    assert parse(core.bye(dialog, 2.0)[0].data).cseq == 4


def test_the_answer_of_a_reliable_provisional_response_is_that_of_the_2xx_without_one():
    core = agent(CALLER, "c")
    _, sent = placed(core)
    sdp = "Content-Type: application/sdp\r\n"
    core.receive(response_to(sent, "183 Session Progress", "a", RELIABLE.format(rseq=7) + sdp, ANSWER), CALLEE, 0.1)
    other = ANSWER.replace("m=audio ", "m=audio 1")
    core.receive(response_to(sent, "183 Session Progress", "b", RELIABLE.format(rseq=1) + sdp, other), CALLEE, 0.2)
    answered = core.receive(response_to(sent, "200 OK", "a", "Contact: <sip:x@192.0.2.77:5090>\r\n"), CALLEE, 1.0)[-1]
    assert isinstance(answered, Answered)
    assert answered.sdp is not None
    assert answered.sdp.serialize() == ANSWER


@pytest.mark.parametrize(
    ("method", "body", "status"), [("UPDATE", ANSWER, 491), ("UPDATE", "", 200), ("OPTIONS", "", 200), ("BYE", "", 481)]
)
def test_a_callee_who_has_not_answered_may_ask_things(method, body, status):
    core = agent(CALLER, "c")
    dialog, sent = placed(core)
    core.receive(response_to(sent, "183 Session Progress", "a", "Contact: <sip:x@192.0.2.77:5090>\r\n"), CALLEE, 0.1)
    invite = parse(sent)
    asked = (
        f"{method} sip:x@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20;branch=z9hG4bK77\r\nMax-Forwards: 70\r\n"
        f"From: {invite.to.text};tag=a\r\nTo: {invite.from_.text}\r\nCall-ID: {invite.call_id}\r\nCSeq: 1 {method}\r\n"
        f"Contact: <sip:x@192.0.2.77:5090>\r\nc: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    (answer,) = core.receive(asked.encode(), CALLEE, 0.2)
    assert parse(answer.data).status == status
    answered = core.receive(
        response_to(sent, "200 OK", "b", "Contact: <sip:x@192.0.2.77:5090>\r\n", ANSWER), CALLEE, 1.0
    )  # fmt: skip
    assert isinstance(answered[-1], Answered)
    core.bye(dialog, 2.0)
    assert not core._by_key


def test_a_reliable_response_without_a_number_is_dropped():
    core = agent(CALLER, "c")
    _, sent = placed(core)
    assert core.receive(response_to(sent, "180 Ringing", "t", RELIABLE.format(rseq="x")), CALLEE, 0.1) == []
    assert core.counters["bad_rseq"] == 1


def test_100rel_is_not_offered_when_it_is_switched_off_or_without_an_offer():
    assert "100rel" not in parse(placed(agent(CALLER, "c", uses_100rel=False))[1]).header("supported")
    _, (sent,) = agent(CALLER, "c").invite(OutgoingCall("sip:b@example.com", CALLEE, "sip:a@example.com"), 0.0)
    assert "100rel" not in parse(sent.data).header("supported")
