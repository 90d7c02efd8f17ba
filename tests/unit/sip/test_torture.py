"""Strange, damaged and random datagrams: each has a defined answer, and a normal call succeeds afterwards."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from libs.sip.events import Answered, Confirmed, IncomingCall, Send
from libs.sip.message import parse

from .link import CALLEE, OFFER, STRANGER, Link, agent

TORTURE = Path(__file__).parents[2] / "data" / "sip" / "torture.txt"


def cases() -> list:
    found = []
    for section in TORTURE.read_text().split("\n=== ")[1:]:
        title, _, text = section.partition("\n")
        name, expected, why = (part.strip() for part in title.split("|", 2))
        message = text.replace("\n", "\r\n")
        body = message.partition("\r\n\r\n")[2]
        data = message.replace("{length}", str(len(body.encode()))).encode()
        found.append(pytest.param(data, expected, id=f"{name}: {why}"))
    return found


@pytest.mark.parametrize(("data", "expected"), cases())
def test_every_torture_message_has_its_defined_answer(data, expected):
    core = agent(CALLEE, "s")
    actions = core.receive(data, STRANGER, 0.0)
    # answers to unreadable requests echo what was unreadable, so only their first line is looked at
    statuses = [int(a.data.removeprefix(b"SIP/2.0 ")[:3]) for a in actions if isinstance(a, Send)]
    if expected == "call":
        assert statuses == [100]
        assert isinstance(actions[-1], IncomingCall)
    elif expected == "drop":
        assert actions == []
        assert core.counters.total() == 1
    else:
        assert statuses == [int(expected)]
        assert core.active_dialogs == 0
    assert core.counters


def a_call_succeeds(link: Link) -> None:
    link.establish()
    assert isinstance(link.at_caller[-1], Answered)
    assert isinstance(link.at_callee[-1], Confirmed)


def test_after_the_whole_set_a_normal_call_succeeds():
    link = Link()
    for parameters in cases():
        link.callee.receive(parameters.values[0], STRANGER, link.now)
    a_call_succeeds(link)


def test_empty_and_overlong_datagrams_are_counted():
    core = agent(CALLEE, "s")
    for data in (b"", b"\r\n\r\n", b"\x00"):
        assert core.receive(data, STRANGER, 0.0) == []
    assert core.receive(b"OPTIONS " + b"x" * 70_000, STRANGER, 0.0) == []
    assert core.counters == {"keepalives": 3, "too_large": 1}


VALID = [parameters.values[0] for parameters in cases()]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_random_bytes_never_raise_and_a_normal_call_succeeds(datagrams):
    link = Link()
    for data in datagrams:
        link.callee.receive(data, STRANGER, link.now)
        link.caller.receive(data, STRANGER, link.now)
    a_call_succeeds(link)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_messages_never_raise(data):
    """Valid messages with a piece cut out, doubled or overwritten, at any point of a call."""
    link = Link()
    link.establish()
    source = data.draw(st.sampled_from(VALID))
    start = data.draw(st.integers(0, len(source)))
    end = data.draw(st.integers(start, len(source)))
    piece = data.draw(st.one_of(st.binary(max_size=20), st.just(source[start:end] * 2), st.just(b"")))
    damaged = source[:start] + piece + source[end:]
    for side in (link.callee, link.caller):
        side.receive(damaged, STRANGER, link.now)
    link.run(1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_messages_inside_a_dialog_never_raise(data):
    """The same with the tags of a live dialog, so that the damage reaches dialog, offer/answer and ACK code."""
    link = Link()
    link.establish()
    ack = link.sent("caller", "ACK")[0]
    method = data.draw(st.sampled_from(["INVITE", "UPDATE", "INFO", "BYE", "ACK", "OPTIONS", "PRACK"]))
    lines = OFFER.splitlines()
    drop = data.draw(st.integers(0, len(lines)))
    body = "\r\n".join(lines[:drop] + lines[drop + 1 :]) + data.draw(st.text(max_size=10))
    contact = data.draw(st.sampled_from(["<sip:a@192.0.2.10>", "<sip:a@", "*", "", "sip:a@b, <x:>"]))
    text = (
        f"{method} sip:x@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKd\r\n"
        f"From: {ack.from_.text}\r\nTo: {ack.to.text}\r\nCall-ID: {ack.call_id}\r\nContact: {contact}\r\n"
        f"CSeq: {data.draw(st.integers(0, 3))} {method}\r\nRecord-Route: {contact}\r\n"
        f"Content-Type: {data.draw(st.sampled_from(['application/sdp', 'application/dtmf-relay', 'x']))}\r\n\r\n{body}"
    )
    for action in link.callee.receive(text.encode(), STRANGER, link.now):
        if isinstance(action, Send):
            parse(action.data)
    while (at := link.callee.deadline()) is not None:
        link.callee.expire(at)
