"""Two real user agents over TCP or TLS: what is not repeated, what is, and what a lost connection costs."""

import pytest

from libs.sip.events import Answered, Confirmed, EndCause, Ended, Rejected, Send
from libs.sip.message import Request, parse
from libs.sip.registration import Registered, RegistrationConfig, RegistrationFailed, RegistrationState
from libs.sip.uri import SipUri

from .link import ANSWER, CALLEE, CALLER, OFFER, Link, agent
from .test_inbound_calls import invite, request

FLOW = (CALLER[0], 49152)  # the caller's end of the connection


@pytest.fixture(params=["tcp", "tls"])
def link(request) -> Link:
    return Link(transport=request.param)


def test_via_and_contact_name_the_transport(link):
    link.place()
    (request,) = link.sent("caller", "INVITE")
    transport = link.caller._config.transport
    assert request.via.text.startswith(f"SIP/2.0/{transport.upper()} 192.0.2.10:5060;")
    assert request.header("contact") == f"<sip:callbus@192.0.2.10:5060;transport={transport}>"


def test_udp_goes_without_saying():
    link = Link()
    link.place()
    assert link.sent("caller", "INVITE")[0].header("contact") == "<sip:callbus@192.0.2.10:5060>"


def test_a_uri_of_ours_is_read_back_as_it_was_built():
    built = SipUri.build("a", "2001:db8::1", 5061, "tls")
    assert str(built) == "sip:a@[2001:db8::1]:5061;transport=tls"
    assert SipUri.parse(str(built)).parameters == built.parameters


def test_a_call_and_its_end_leave_nothing_behind_but_the_two_absorbing_states(link):
    ours, _ = link.establish()
    link.caller_does(link.caller.bye(ours, link.now))
    assert isinstance(link.at_caller[0], Answered)
    assert isinstance(link.at_callee[-1], Ended)
    assert len(link.caller._transactions) == len(link.callee._transactions) == 1  # timers L and M are not zero
    link.run(33)
    assert not link.caller._transactions
    assert not link.callee._transactions
    assert link.caller.deadline() is None


def test_an_unanswered_invite_is_sent_once_and_given_up_after_32_seconds(link):
    link.lose = lambda sender, message: True
    link.place()
    link.run(33)
    assert link.sent_at("caller", "INVITE") == [0]
    assert link.at_caller[-1].cause is EndCause.TRANSACTION_TIMEOUT


def test_an_unanswered_bye_is_sent_once(link):
    ours, _ = link.establish()
    link.lose = lambda sender, message: True
    link.caller_does(link.caller.bye(ours, link.now))
    link.run(33)
    assert len(link.sent("caller", "BYE")) == 1


def test_a_refusal_is_sent_once_and_its_acknowledged_transaction_ends_at_once(link):
    link.place()
    link.callee_does(link.callee.reject(link.incoming(), 486, link.now))
    assert isinstance(link.at_caller[-1], Rejected)
    assert not link.caller._transactions
    assert not link.callee._transactions
    link.run(33)
    assert len(link.sent("callee", 486)) == 1


def test_a_200_is_repeated_until_its_ack_comes_even_here(link):
    # RFC 3261 §13.3.1.4: a proxy on the way may have gone over to UDP
    link.lose = lambda sender, message: isinstance(message, Request) and message.method == "ACK" and link.now < 101
    link.establish()
    link.run(3)
    assert link.sent_at("callee", 200) == [0, 0.5, 1.5]
    assert isinstance(link.at_callee[-1], Confirmed)


def test_responses_go_back_over_the_connection_whatever_via_says():
    core = agent(CALLEE, "s", transport="tcp")
    actions = core.receive(invite(), FLOW, 0.0)
    dialog = actions[-1].dialog
    sent = [*actions[:1], *core.answer(dialog, ANSWER, 0.0)]
    assert [action.destination for action in sent if isinstance(action, Send)] == [FLOW, FLOW]


def ringing(**config):
    core = agent(CALLEE, "s", transport="tcp", **config)
    return core, core.receive(invite(), FLOW, 0.0)[-1].dialog


def ack_of(answer: bytes) -> bytes:
    return request("ACK", to_tag=parse(answer).to.tag, branch="ack")


def test_requests_in_a_dialog_use_the_connection_that_the_peer_used_while_it_stands():
    core, dialog = ringing()
    (ok,) = core.answer(dialog, ANSWER, 0.0)
    core.receive(ack_of(ok.data), FLOW, 0.0)
    (bye, _) = core.bye(dialog, 1.0)
    assert bye.destination == FLOW


def test_without_its_connection_a_dialog_goes_to_the_contact():
    core, dialog = ringing()
    (ok,) = core.answer(dialog, ANSWER, 0.0)
    core.receive(ack_of(ok.data), FLOW, 0.0)
    assert core.connection_lost(FLOW, 0.5) == []
    (bye, _) = core.bye(dialog, 1.0)
    assert bye.destination == CALLER


def test_a_200_that_is_repeated_after_the_connection_broke_goes_to_the_address_in_via():
    core, dialog = ringing()
    core.answer(dialog, ANSWER, 0.0)
    core.connection_lost(FLOW, 0.1)
    repeats = core.expire(0.5)
    assert [action.destination for action in repeats] == [CALLER]


def test_a_lost_connection_fails_the_invite_at_once(link):
    link.lose = lambda sender, message: True
    dialog = link.place()
    assert link.caller.connection_lost(CALLEE, link.now) == [Rejected(dialog, 503, "the connection failed", {})]
    assert link.caller.unanswered_requests == 0
    assert link.caller.connection_lost(CALLEE, link.now) == []


def test_a_lost_connection_ends_a_call_that_was_being_cancelled(link):
    dialog = link.place()
    link.lose = lambda sender, message: True
    link.caller_does(link.caller.cancel(dialog, link.now))
    told = link.caller.connection_lost(CALLEE, link.now)
    assert [(type(action), action.cause) for action in told] == [(Ended, EndCause.LOCAL_CANCEL)]


def test_a_lost_connection_costs_a_reinvite_and_not_its_call(link):
    ours, _ = link.establish()
    link.lose = lambda sender, message: True
    link.caller_does(link.caller.reinvite(ours, OFFER, link.now))
    (refused,) = link.caller.connection_lost(CALLEE, link.now)
    assert refused.status == 503
    assert link.caller.active_dialogs == 1
    link.lose = lambda sender, message: False
    link.caller_does(link.caller.bye(ours, link.now))
    assert isinstance(link.at_callee[-1], Ended)


def test_a_bye_that_its_connection_took_along_is_sent_once_more_to_the_contact():
    core, dialog = ringing()
    (ok,) = core.answer(dialog, ANSWER, 0.0)
    core.receive(ack_of(ok.data), FLOW, 0.0)
    first, _ = core.bye(dialog, 1.0)
    (second,) = core.connection_lost(FLOW, 1.1)
    assert [parse(action.data).method for action in (first, second)] == ["BYE", "BYE"]
    assert (first.destination, second.destination) == (FLOW, CALLER)
    assert parse(second.data).cseq == parse(first.data).cseq + 1
    assert core.connection_lost(CALLER, 1.2) == []
    assert core.unanswered_requests == 0


def test_another_connection_that_breaks_costs_nothing(link):
    link.lose = lambda sender, message: True
    link.place()
    assert link.caller.connection_lost(("192.0.2.77", 5060), link.now) == []
    assert link.caller.unanswered_requests == 1


def trunk(core, now: float):
    config = RegistrationConfig("sip:provider.example", "sip:u@provider.example", "u", "p", CALLEE)
    (register,) = core.register("trunk", config, now)
    return register


def test_a_connection_that_cannot_be_opened_fails_the_registration_at_once():
    core = agent(CALLER, "c", transport="tls")
    trunk(core, 0.0)
    (failed,) = core.connection_lost(CALLEE, 0.1)
    assert isinstance(failed, RegistrationFailed)
    assert failed.status is None
    assert "connection" in failed.reason
    assert failed.retry_s <= 5


def test_the_loss_of_a_registered_connection_registers_anew_soon():
    core = agent(CALLER, "c", transport="tls")
    request = parse(trunk(core, 0.0).data)
    lines = [f"Via: {request.via.text}", f"From: {request.from_.text}", f"To: {request.to.text};tag=9"]
    lines += [f"Call-ID: {request.call_id}", f"CSeq: {request.cseq} REGISTER", "Expires: 3600", "Content-Length: 0"]
    answer = "\r\n".join(["SIP/2.0 200 OK", *lines, "", ""]).encode()
    assert core.receive(answer, CALLEE, 0.1) == [Registered("trunk", 3600)]
    assert core.uses(CALLEE)
    assert core.connection_lost(CALLEE, 10.0) == []
    assert 12 <= core.deadline() <= 15.1
    (again,) = [action for action in core.expire(core.deadline()) if isinstance(action, Send)]
    assert again.data.startswith(b"REGISTER")
    assert core.registrations["trunk"].state is RegistrationState.REGISTERED


def test_a_connection_is_needed_as_long_as_a_call_or_a_request_uses_it(link):
    ours, _ = link.establish()
    assert link.caller.uses(CALLEE)
    assert not link.caller.uses(("192.0.2.77", 5060))
    link.caller_does(link.caller.bye(ours, link.now))
    link.run(33)
    assert not link.caller.uses(CALLEE)
