"""Callers who must prove who they are before anything is done for them."""

import random

import pytest

from libs.sip.digest import Login
from libs.sip.digest_server import DigestServer
from libs.sip.events import Answered, Ended, IncomingCall, Rejected, Ringing, Send
from libs.sip.message import parse
from libs.sip.user_agent import UaConfig, UserAgent

from .link import ANSWER, CALLEE, CALLER, STRANGER, Link, tokens
from .test_inbound_calls import invite


def guarded(password: str = "secret") -> Link:
    server = DigestServer("callbus", {"alice": "secret"}.get, b"key", tokens("n"))
    link = Link()
    link.callee = UserAgent(
        UaConfig(*CALLEE), tokens("s"), doorkeeper=lambda source: server if source[0] != "192.0.2.30" else None
    )
    link.caller = UserAgent(UaConfig(*CALLER), tokens("c"), lambda realm: Login("alice", password))
    return link


def test_a_caller_with_the_password_comes_through_and_is_named():
    link = guarded()
    link.establish()
    (call,) = [event for event in link.at_callee if isinstance(event, IncomingCall)]
    assert call.username == "alice"
    assert "SHA-256" in call.headers["authorization"][0]
    assert any(isinstance(event, Answered) for event in link.at_caller)
    link.callee_does(link.callee.hold(call.dialog, link.now))
    assert isinstance(link.at_callee[-1], Answered)


def test_a_caller_without_it_is_rejected_and_the_application_hears_nothing():
    link = guarded("guessed")
    link.place()
    assert link.at_callee == []
    assert isinstance(link.at_caller[-1], Rejected)
    assert link.callee.counters["digest_wrong"] == 1


def test_trusted_sources_are_not_asked():
    link = guarded()
    assert isinstance(link.callee.receive(invite(), ("192.0.2.30", 5060), 0.0)[-1], IncomingCall)


def test_credentials_that_were_overheard_open_nothing():
    link = guarded()
    link.establish()
    stolen = link.sent("caller", "INVITE")[-1]
    again = invite(headers=f"Max-Forwards: 70\r\nAuthorization: {stolen.header('authorization')}\r\n")
    (reply,) = link.callee.receive(again, STRANGER, link.now)
    assert parse(reply.data).status == 401
    assert "stale=true" in parse(reply.data).header("www-authenticate")
    assert link.callee.counters["digest_replayed"] == 1


@pytest.mark.parametrize("count", [500])
def test_a_flood_of_strangers_leaves_nothing_behind(count):
    link = guarded()
    for number in range(count):
        actions = link.callee.receive(invite(via=f"192.0.2.99:5060;branch=z9hG4bK{number}"), STRANGER, number / 1000)
        assert [type(action) for action in actions] == [Send]
    assert link.callee.deadline() is None
    assert link.callee.receive(invite().replace(b"INVITE", b"ACK"), STRANGER, 1.0) == []


def test_an_answered_call_goes_on_without_passwords():
    link = guarded()
    ours, _theirs = link.establish()
    link.caller_does(link.caller.reinvite(ours, ANSWER, link.now))
    assert isinstance(link.at_caller[-1], Answered)


@pytest.mark.parametrize("seed", range(12))
def test_calls_with_passwords_and_session_timers_survive_random_loss(seed):
    dice = random.Random(seed)
    link = guarded()
    link.lose = lambda sender, message: dice.random() < 0.25
    ours = link.place()
    link.run(25)
    theirs = link.incoming()
    link.callee_does(link.callee.answer(theirs, ANSWER, link.now))
    link.run(2000)
    assert [type(event) for event in link.at_caller if not isinstance(event, Ringing)] == [Answered]
    link.caller_does(link.caller.refer(ours, "sip:z@example.com", link.now))
    link.run(35)
    link.caller_does(link.caller.bye(ours, link.now))
    link.run(100)
    assert sum(isinstance(event, Ended) for event in link.at_caller) == 1
    assert sum(isinstance(event, Ended) for event in link.at_callee) == 1
    assert link.caller.deadline() is None
    assert link.callee.deadline() is None
