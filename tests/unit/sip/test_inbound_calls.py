"""The called side. Numbers in the names of sections are those of the list of defects seen in other stacks."""

import pytest

from libs.sip.errors import SipStateError
from libs.sip.events import (
    Answered,
    Cancelled,
    Confirmed,
    DtmfInfo,
    EndCause,
    Ended,
    IncomingCall,
    Rejected,
    Ringing,
    Send,
    SessionChanged,
)
from libs.sip.message import Request, Response, parse
from libs.sip.sdp import Direction, LocalMedia, SessionDescription, make_offer

from .link import ANSWER, CALLEE, CALLER, OFFER, STRANGER, Link, agent

INVITE = (
    "INVITE sip:bestellung@192.0.2.20 SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKabc\r\n"
    'From: "A" <sip:+49301@192.0.2.10>;tag=f1\r\n'
    "To: <sip:bestellung@192.0.2.20>\r\n"
    "Call-ID: call-1\r\n"
    "CSeq: 1 INVITE\r\n"
    "Contact: <sip:a@192.0.2.10:5060>\r\n"
    "Max-Forwards: 70\r\n"
    "Content-Type: application/sdp\r\n"
    "Content-Length: {length}\r\n\r\n{sdp}"
)


def invite(sdp: str = OFFER, **replacements: str) -> bytes:
    text = INVITE.format(length=len(sdp), sdp=sdp)
    for old, new in replacements.items():
        text = text.replace({"via": "192.0.2.10:5060;branch=z9hG4bKabc", "headers": "Max-Forwards: 70\r\n"}[old], new)
    return text.encode()


def request(
    method: str, headers: str = "", to_tag: str = "", body: str = "", branch: str = "x", cseq: int = 1
) -> bytes:
    tag = f";tag={to_tag}" if to_tag else ""
    return (
        f"{method} sip:bestellung@192.0.2.20 SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{branch}\r\n"
        f"From: <sip:a@192.0.2.10>;tag=f1\r\nTo: <sip:bestellung@192.0.2.20>{tag}\r\n"
        f"Call-ID: call-1\r\nCSeq: {cseq} {method}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def replies(actions) -> list[Response]:
    return [parse(a.data) for a in actions if isinstance(a, Send)]


def only_status(actions) -> int:
    (response,) = replies(actions)
    return response.status


def test_a_call_is_offered_rung_answered_confirmed_and_ended_by_the_caller():
    link = Link()
    ours = link.place()
    call = link.at_callee[0]
    assert isinstance(call, IncomingCall)
    assert (call.request_uri.user, call.from_uri.user, call.from_display) == (
        "bestellung",
        "+4930123",
        "Erika Mustermann",
    )
    assert call.offer is not None
    assert call.source == CALLER
    link.callee_does(link.callee.ring(call.dialog, link.now))
    link.callee_does(link.callee.answer(call.dialog, ANSWER, link.now))
    link.caller_does(link.caller.bye(ours, link.now))
    assert [type(a) for a in link.at_caller] == [Ringing, Answered, Ended]
    assert link.at_callee[1:] == [Confirmed(call.dialog), Ended(call.dialog, EndCause.REMOTE_BYE)]
    link.run(64)
    assert link.callee.deadline() is None
    assert link.caller.deadline() is None
    assert not link.callee.active_dialogs
    assert not link.caller.active_dialogs


def test_the_callee_ends_the_call_with_a_reason():
    link = Link()
    ours, theirs = link.establish()
    link.callee_does(link.callee.bye(theirs, link.now, 'Q.850;cause=16;text="done"'))
    assert link.at_caller[-1] == Ended(ours, EndCause.REMOTE_BYE, None, 'Q.850;cause=16;text="done"')
    assert link.at_callee[-1].cause is EndCause.LOCAL_BYE
    assert link.callee.bye(theirs, link.now) == []


def test_cancel_while_ringing_gives_200_and_487_and_answering_afterwards_is_refused():  # 1
    link = Link()
    ours = link.place()
    theirs = link.incoming()
    link.callee_does(link.callee.ring(theirs, link.now))
    link.caller_does(link.caller.cancel(ours, link.now))
    assert link.at_callee[-1] == Cancelled(theirs)
    assert [m.status for _, s, m in link.wire if s == "callee"] == [100, 180, 200, 487]
    assert link.at_caller[-1] == Ended(ours, EndCause.LOCAL_CANCEL, 487, "Request Terminated")
    with pytest.raises(SipStateError):
        link.callee.answer(theirs, ANSWER, link.now)
    assert link.callee.ring(theirs, link.now) == []
    assert link.callee.reject(theirs, 486, link.now) == []


def test_options_is_answered_outside_and_inside_a_dialog():  # 2
    link = Link()
    (outside,) = replies(link.callee.receive(request("OPTIONS"), CALLER, 0.0))
    assert outside.status == 200
    assert "INVITE" in outside.headers["allow"][0]
    link.establish()
    ack = link.sent("caller", "ACK")[0]
    inside = request("OPTIONS", cseq=9, branch="o").decode().replace(
        "To: <sip:bestellung@192.0.2.20>", f"To: {ack.to.text}"
    ).replace("From: <sip:a@192.0.2.10>;tag=f1", f"From: {ack.from_.text}").replace("call-1", ack.call_id)  # fmt: skip
    assert only_status(link.callee.receive(inside.encode(), CALLER, 0.0)) == 200


def test_only_unknown_codecs_give_488_without_troubling_the_application():  # 3
    sdp = OFFER.replace("0 8 101", "18 101").replace("a=rtpmap:0 PCMU/8000", "a=rtpmap:18 G729/8000")
    sdp = sdp.replace("a=rtpmap:8 PCMA/8000\r\n", "")
    core = agent(CALLEE, "s")
    actions = core.receive(invite(sdp), CALLER, 0.0)
    assert only_status(actions) == 488
    assert core.active_dialogs == 0


def test_the_same_invite_three_times_makes_one_dialog_and_repeats_the_response():  # 4
    core = agent(CALLEE, "s")
    first = core.receive(invite(), CALLER, 0.0)
    (call,) = [a for a in first if isinstance(a, IncomingCall)]
    (ringing,) = core.ring(call.dialog, 0.1)
    assert core.receive(invite(), CALLER, 0.5) == [ringing]
    assert core.receive(invite(), CALLER, 1.5) == [ringing]
    (ok,) = core.answer(call.dialog, ANSWER, 2.0)
    assert core.receive(invite(), CALLER, 2.1) == [ok]
    assert core.active_dialogs == 1


@pytest.mark.parametrize(
    ("offered", "answered"),
    [("sendonly", "recvonly"), ("inactive", "inactive"), ("recvonly", "sendonly"), ("sendrecv", "sendrecv")],
)
def test_hold_is_answered_with_the_mirrored_direction(offered, answered):  # 5
    link = Link()
    ours, theirs = link.establish()
    held = OFFER.replace("sendrecv", offered).replace("m=audio 40000", "m=audio 40002")
    link.caller_does(link.caller.reinvite(ours, held, link.now))
    reply = link.at_caller[-1]
    assert isinstance(reply, Answered)
    assert reply.sdp.media[0].direction == answered
    changed = next(a for a in link.at_callee if isinstance(a, SessionChanged))
    assert changed.dialog == theirs
    assert (changed.negotiated.direction, changed.negotiated.remote_port) == (Direction(answered), 40002)
    assert len(link.sent("caller", "ACK")) == 2
    link.run(5)
    assert len(link.sent("callee", 200)) == 2


def test_a_held_call_comes_back_with_the_same_codec_and_a_new_version():
    link = Link()
    ours, _ = link.establish()
    link.caller_does(link.caller.reinvite(ours, OFFER.replace("sendrecv", "sendonly"), link.now))
    link.caller_does(link.caller.reinvite(ours, OFFER, link.now))
    back = link.at_caller[-1].sdp
    assert back.media[0].codecs()[0][1] == "PCMU"
    assert back.media[0].direction == "sendrecv"
    assert back.session_version == 3


@pytest.mark.parametrize("method", ["BYE", "INFO", "UPDATE", "OPTIONS", "INVITE"])
def test_requests_for_an_unknown_dialog_get_481(method):  # 6
    headers = "Contact: <sip:a@192.0.2.10>\r\n"
    assert only_status(agent(CALLEE, "s").receive(request(method, headers, to_tag="gone"), CALLER, 0.0)) == 481


@pytest.mark.parametrize(("method", "status"), [("REGISTER", 405), ("SUBSCRIBE", 405), ("PRACK", 405), ("DANCE", 501)])
def test_methods_that_are_not_served_get_405_or_501_with_allow(method, status):  # 7
    (response,) = replies(agent(CALLEE, "s").receive(request(method), CALLER, 0.0))
    assert response.status == status
    assert "BYE" in response.headers["allow"][0]


def test_responses_go_to_the_packets_source_with_rport_or_behind_a_nat():  # 9
    nated = invite(via="10.0.0.5:5060;branch=z9hG4bKabc;rport")
    trying = agent(CALLEE, "s").receive(nated, STRANGER, 0.0)[0]
    assert trying.destination == STRANGER
    via = parse(trying.data).headers["via"][0]
    assert f"received={STRANGER[0]}" in via
    assert f"rport={STRANGER[1]}" in via
    without_rport = agent(CALLEE, "s").receive(invite(via="10.0.0.5:5060;branch=z9hG4bKabc"), STRANGER, 0.0)[0]
    assert without_rport.destination == STRANGER


def test_without_rport_responses_go_to_the_sent_by_port():
    trying = agent(CALLEE, "s").receive(invite(), (CALLER[0], 31337), 0.0)[0]
    assert trying.destination == CALLER


def test_a_lost_ack_makes_the_200_repeat_on_timers_until_bye():  # 10
    link = Link()
    link.lose = lambda sender, message: sender == "caller" and isinstance(message, Request) and message.method == "ACK"
    _, _theirs = link.establish()
    link.run(31.9)
    assert link.sent_at("callee", 200) == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    # every repeated 2xx was acknowledged again
    assert len(link.sent("caller", "ACK")) == 11
    link.run(0.2)
    assert link.at_callee[-1].cause is EndCause.NO_ACK
    assert len(link.sent("callee", "BYE")) == 1
    assert link.at_caller[-1].cause is EndCause.REMOTE_BYE


def test_a_bye_of_ours_waits_for_the_ack():
    link = Link()
    link.lose = lambda sender, message: link.sent("caller", "ACK") == [message]
    _, theirs = link.establish()
    link.callee_does(link.callee.bye(theirs, link.now))
    assert link.at_callee[-1].cause is EndCause.LOCAL_BYE
    assert not link.sent("callee", "BYE")
    link.run(1)
    assert link.sent_at("callee", "BYE") == [0.5]
    link.run(64)
    assert link.callee.deadline() is None


def test_compact_and_lower_case_names_folded_lines_routes_and_tel_uris_are_read():  # 11
    text = (
        "INVITE tel:+4930123 SIP/2.0\r\n"
        "v: SIP / 2.0 / UDP 192.0.2.1 ;branch=z9hG4bKp ; rport\r\n"
        "VIA: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKq, SIP/2.0/UDP 192.0.2.11;branch=z9hG4bKr\r\n"
        "f: Erika\r\n Mustermann\r\n\t<tel:+49301>;tag=f1\r\n"
        "t: <tel:+4930123;phone-context=example>\r\n"
        "i: compact-1\r\n"
        "cseq: 4 INVITE\r\n"
        "m: sip:a@sbc_1:5070;transport=udp\r\n"
        "Record-Route: <sip:p2.example;lr>, <sip:p1.example;lr>\r\n"
        "record-route: <sip:p0.example;lr>\r\n"
        f"c: application/sdp\r\nl: {len(OFFER)}\r\n\r\n{OFFER}"
    )
    core = agent(CALLEE, "s")
    trying, call = core.receive(text.encode(), CALLER, 0.0)
    assert parse(trying.data).headers["via"][1:] == [
        "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKq",
        "SIP/2.0/UDP 192.0.2.11;branch=z9hG4bKr",
    ]
    assert (call.request_uri.scheme, call.request_uri.user) == ("tel", "+4930123")
    assert call.from_display == "Erika Mustermann"
    assert call.from_uri.user == "+49301"
    (ok,) = core.answer(call.dialog, ANSWER, 0.1)
    assert parse(ok.data).headers["record-route"] == [
        "<sip:p2.example;lr>",
        "<sip:p1.example;lr>",
        "<sip:p0.example;lr>",
    ]


def test_info_digits_reach_the_application_and_other_bodies_get_415():
    link = Link()
    _, theirs = link.establish()
    ack = link.sent("caller", "ACK")[0]

    def info(cseq: int, kind: str, body: str) -> bytes:
        return (
            f"INFO sip:x@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKi{cseq}\r\n"
            f"From: {ack.from_.text}\r\nTo: {ack.to.text}\r\nCall-ID: {ack.call_id}\r\nCSeq: {cseq} INFO\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    relay = link.callee.receive(info(5, "application/dtmf-relay", "Signal=5\r\nDuration=160\r\n"), CALLER, 0)
    assert relay[1] == DtmfInfo(theirs, "5", 160)
    assert only_status(relay) == 200
    assert link.callee.receive(info(6, "application/dtmf", "#"), CALLER, 0)[1] == DtmfInfo(theirs, "#")
    assert only_status(link.callee.receive(info(7, "text/plain", "hello"), CALLER, 0)) == 415
    assert only_status(link.callee.receive(info(3, "application/dtmf", "1"), CALLER, 0)) == 500


def test_a_late_offer_is_made_in_the_200_and_answered_in_the_ack():
    core = agent(CALLEE, "s")
    (_trying, call) = core.receive(invite(""), CALLER, 0.0)
    assert call.offer is None
    (ok,) = core.answer(call.dialog, make_offer(LocalMedia(CALLEE[0], 50000)).serialize(), 0.1)
    tag = parse(ok.data).to.tag
    answer = OFFER.replace("0 8 101", "8 101")
    ack = request("ACK", "Content-Type: application/sdp\r\n", to_tag=tag, body=answer, branch="ack")
    (confirmed,) = core.receive(ack, CALLER, 0.2)
    assert confirmed == Confirmed(call.dialog, SessionDescription.parse(answer))


def test_a_late_offer_without_a_usable_answer_ends_with_bye():
    core = agent(CALLEE, "s")
    (_, call) = core.receive(invite(""), CALLER, 0.0)
    (ok,) = core.answer(call.dialog, ANSWER, 0.1)
    actions = core.receive(request("ACK", to_tag=parse(ok.data).to.tag, branch="ack"), CALLER, 0.2)
    assert parse(actions[0].data).method == "BYE"
    assert actions[1].cause is EndCause.LOCAL_BYE


def test_a_reinvite_without_offer_gets_our_session_and_takes_the_answer():
    link = Link()
    _, theirs = link.establish()
    ack = link.sent("caller", "ACK")[0]
    again = (
        "INVITE sip:x@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKre\r\n"
        f"From: {ack.from_.text}\r\nTo: {ack.to.text}\r\nCall-ID: {ack.call_id}\r\nCSeq: 7 INVITE\r\n"
        "Contact: <sip:moved@192.0.2.10:5080>\r\n\r\n"
    )
    (ok,) = link.callee.receive(again.encode(), CALLER, link.now)
    assert SessionDescription.parse(parse(ok.data).body.decode()).media[0].port == 50000
    new_ack = again.replace("z9hG4bKre", "z9hG4bKre2").replace("INVITE", "ACK").rstrip() + (
        f"\r\nContent-Type: application/sdp\r\n\r\n{OFFER.replace('40000', '40100')}"
    )
    (changed,) = link.callee.receive(new_ack.encode(), CALLER, link.now)
    assert isinstance(changed, SessionChanged)
    assert changed.negotiated.remote_port == 40100
    # the target refresh counts for the BYE
    bye = link.callee.bye(theirs, link.now)[0]
    assert bye.destination == ("192.0.2.10", 5080)
    assert str(parse(bye.data).uri) == "sip:moved@192.0.2.10:5080"


def test_glare_is_answered_with_491():
    link = Link()
    ours, theirs = link.establish()
    mine = link.caller.reinvite(ours, OFFER, link.now)
    link.callee_does(link.callee.reinvite(theirs, ANSWER, link.now))
    assert link.sent("caller", 491)
    link.caller_does(mine)
    assert link.at_caller[-1].__class__ is Answered


def test_an_update_changes_the_session():
    link = Link()
    link.establish()
    ack = link.sent("caller", "ACK")[0]
    sdp = OFFER.replace("sendrecv", "sendonly")
    update = (
        "UPDATE sip:x@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKup\r\n"
        f"From: {ack.from_.text}\r\nTo: {ack.to.text}\r\nCall-ID: {ack.call_id}\r\nCSeq: 7 UPDATE\r\n"
        f"Contact: <sip:a@192.0.2.10>\r\nContent-Type: application/sdp\r\n\r\n{sdp}"
    )
    reply, changed = link.callee.receive(update.encode(), CALLER, link.now)
    assert b"a=recvonly" in reply.data
    assert changed.negotiated.direction is Direction.RECVONLY


def test_a_rejected_call_repeats_its_response_until_the_ack():
    link = Link()
    link.lose = lambda sender, message: isinstance(message, Response) and message.status == 486
    ours = link.place()
    link.callee_does(link.callee.reject(link.incoming(), 486, link.now, "Besetzt", [("X-Why", "full\r\nInjected: 1")]))
    link.run(3)
    assert link.sent_at("callee", 486) == [0, 0.5, 1.5]
    link.lose = lambda sender, message: False
    link.run(60)
    assert link.at_caller[-1] == Rejected(ours, 486, "Besetzt", link.at_caller[-1].headers)
    assert "injected" not in link.at_caller[-1].headers
    assert link.sent_at("callee", 486) == [0, 0.5, 1.5, 3.5]
    assert link.callee.deadline() is None


def test_a_bye_before_the_answer_ends_the_early_dialog():
    core = agent(CALLEE, "s")
    _, call = core.receive(invite(), CALLER, 0.0)
    tag = parse(core.ring(call.dialog, 0.0)[0].data).to.tag
    actions = core.receive(request("BYE", to_tag=tag, cseq=2, branch="bye"), CALLER, 0.1)
    assert [r.status for r in replies(actions)] == [200, 487]
    assert actions[-1] == Ended(call.dialog, EndCause.REMOTE_BYE)


def test_a_request_that_came_over_two_paths_is_a_loop():
    core = agent(CALLEE, "s")
    core.receive(invite(), CALLER, 0.0)
    assert only_status(core.receive(invite(via="192.0.2.77:5060;branch=z9hG4bKother"), CALLER, 0.1)) == 482


def test_required_extensions_encodings_schemes_and_bodies_that_we_lack_are_named():
    core = agent(CALLEE, "s")

    def answer(old: str, new: str, branch: str) -> Response:
        text = invite().decode().replace(old, new).replace("z9hG4bKabc", f"z9hG4bK{branch}")
        (response,) = replies(core.receive(text.encode(), CALLER, 0.0))
        return response

    bad = answer("Max-Forwards: 70", "Require: 100rel, fancy", "1")
    assert (bad.status, bad.headers["unsupported"]) == (420, ["100rel, fancy"])
    bad = answer("application/sdp", "text/plain", "2")
    assert (bad.status, bad.headers["accept"]) == (415, ["application/sdp"])
    assert answer("Max-Forwards: 70", "Content-Encoding: gzip", "3").status == 415
    assert answer("INVITE sip:", "INVITE soap.beep:", "4").status == 416
    assert answer("Contact: <sip:a@192.0.2.10:5060>", "X-None: 1", "5").status == 400
    assert answer("Contact: <sip:a@192.0.2.10:5060>", "Contact: <sip:a@", "6").status == 400
    assert answer("v=0", "v=one", "7").status == 400
    assert core.active_dialogs == 0


def test_the_table_of_dialogs_is_bounded():
    core = agent(CALLEE, "s", max_dialogs=1)
    core.receive(invite(), CALLER, 0.0)
    second = invite().replace(b"call-1", b"call-2").replace(b"z9hG4bKabc", b"z9hG4bKdef")
    (busy,) = replies(core.receive(second, CALLER, 0.0))
    assert busy.status == 503
    assert busy.headers["retry-after"] == ["5"]


def test_when_the_table_of_transactions_is_full_options_is_still_answered():
    core = agent(CALLEE, "s", max_transactions=0)
    assert only_status(core.receive(request("OPTIONS"), CALLER, 0.0)) == 200
    assert only_status(core.receive(invite(), CALLER, 0.0)) == 503
    assert core.deadline() is None


def test_a_flood_of_options_leaves_room_for_calls():
    core = agent(CALLEE, "s", max_transactions=10)
    for number in range(20):
        assert only_status(core.receive(request("OPTIONS", branch=f"flood{number}"), STRANGER, 0.0)) == 200
    assert core.counters["stateless_replies"] == 15
    assert isinstance(core.receive(invite(), CALLER, 0.1)[-1], IncomingCall)


def test_a_body_that_need_not_be_understood_is_no_offer():
    extra = "Content-Disposition: render;handling=optional\r\n"
    core = agent(CALLEE, "s")
    data = invite("<location/>", headers=extra).replace(b"application/sdp", b"application/pidf+xml")
    (_, call) = core.receive(data, CALLER, 0.0)
    assert call.offer is None


def test_cancel_and_487_carry_the_same_tag():
    core = agent(CALLEE, "s")
    core.receive(invite(), CALLER, 0.0)
    actions = core.receive(request("CANCEL", branch="abc"), CALLER, 0.1)
    assert [r.status for r in replies(actions)] == [200, 487]
    assert len({r.to.tag for r in replies(actions)}) == 1


def test_a_client_of_rfc_2543_without_branch_is_served():
    core = agent(CALLEE, "s")
    old = invite(via="192.0.2.10:5060")
    _, call = core.receive(old, CALLER, 0.0)
    assert len(core.receive(old, CALLER, 0.5)) == 1
    (busy,) = [a for a in core.reject(call.dialog, 486, 1.0) if isinstance(a, Send)]
    ack = request("ACK", to_tag=parse(busy.data).to.tag).replace(b";branch=z9hG4bKx", b"")
    assert core.receive(ack, CALLER, 1.1) == []
    assert core.expire(5.0) == []


@pytest.mark.parametrize("host", ["[2001:db8::1]", "[::ffff:192.0.2.77]"])
def test_a_contact_of_the_other_ip_version_is_reached_where_its_packets_come_from(host):
    core = agent(CALLEE, "s")
    text = invite().decode().replace("Contact: <sip:a@192.0.2.10", f"Contact: <sip:a@{host}")
    call = next(a for a in core.receive(text.encode(), CALLER, 0.0) if isinstance(a, IncomingCall))
    (ok,) = core.answer(call.dialog, ANSWER, 0.1)
    core.receive(request("ACK", to_tag=parse(ok.data).to.tag, branch="ack"), CALLER, 0.2)
    (bye,) = [action for action in core.bye(call.dialog, 1.0) if isinstance(action, Send)]
    assert bye.destination == CALLER
