"""The trace as a core: what is told of whose messages, what is left out, and that no flood fills anything."""

import pytest

from services.sip_gateway.trace import (
    KEEP_S,
    MAX_MESSAGES,
    MAX_REPEATS,
    MAX_WAITING,
    SipTrace,
    call_id_of,
    without_credentials,
)

INVITE = (
    b"INVITE sip:a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\n"
    b"Call-ID: one\r\nCSeq: 1 INVITE\r\n\r\n"
)


class Traced:
    def __init__(self) -> None:
        self.events = []
        self.trace = SipTrace(self.events.append)

    def see(self, data: bytes, direction="in") -> None:
        self.trace.seen(direction, "udp", "127.0.0.1:5060", "127.0.0.1:5070", data)


@pytest.fixture
def traced():
    return Traced()


def options(number: int) -> bytes:
    return b"OPTIONS sip:a@127.0.0.1 SIP/2.0\r\nCall-ID: options-%d\r\nCSeq: 1 OPTIONS\r\n\r\n" % number


def test_what_came_before_the_call_had_an_id_is_told_when_it_has_one(traced):
    traced.see(INVITE)
    traced.see(b"SIP/2.0 100 Trying\r\nCall-ID: one\r\nCSeq: 1 INVITE\r\n\r\n", "out")
    assert traced.events == []
    traced.trace.follow("one", "default", "call-1")
    assert [(event.direction, event.call, event.event_id) for event in traced.events] == [
        ("in", "call-1", "call-1:sip:1"), ("out", "call-1", "call-1:sip:2"),
    ]  # fmt: skip


def test_a_flood_of_what_belongs_to_no_call_leaves_nothing(traced):
    for number in range(10_000):
        traced.see(options(number))
        traced.see(INVITE.replace(b": one", b": flood-%d" % number))
    assert len(traced.trace._waiting) == MAX_WAITING
    assert traced.events == []


def test_a_message_again_and_again_is_told_a_few_times(traced):
    traced.trace.follow("one", "default", "call-1")
    for _ in range(50):
        traced.see(INVITE)
    assert len(traced.events) == 1 + MAX_REPEATS
    assert traced.trace.counters["repeats"] == 49 - MAX_REPEATS


def test_no_call_is_told_of_without_end(traced):
    traced.trace.follow("one", "default", "call-1")
    for number in range(2 * MAX_MESSAGES):
        traced.see(INVITE.replace(b"CSeq: 1", b"CSeq: %d" % number))
    assert len(traced.events) == MAX_MESSAGES
    assert traced.trace.counters["beyond_limit"] == MAX_MESSAGES


def test_several_dialogs_of_a_call_are_one_trace(traced):
    for call_id in ("one", "two"):
        traced.trace.follow(call_id, "default", "call-1")
        traced.see(INVITE.replace(b": one", b": " + call_id.encode()))
    assert [event.event_id for event in traced.events] == ["call-1:sip:1", "call-1:sip:2"]


def test_the_last_answers_are_told_after_the_end_and_then_nothing(traced):
    traced.trace.follow("one", "default", "call-1")
    traced.trace.forget("call-1", 100.0)
    traced.see(b"SIP/2.0 200 OK\r\nCall-ID: one\r\nCSeq: 2 BYE\r\n\r\n")
    assert len(traced.events) == 1
    traced.trace.forget("another", 100.0 + KEEP_S + 1)
    traced.see(b"SIP/2.0 200 OK\r\nCall-ID: one\r\nCSeq: 3 BYE\r\n\r\n")
    assert len(traced.events) == 1
    assert not traced.trace._calls


@pytest.mark.parametrize(
    "data",
    [b"\r\n\r\n", b"", b"x" * 100, INVITE.replace(b"one", b"\xff\xfe"), INVITE[:40], b"\nCall-ID: x" * 9],
    ids=["ping", "empty", "no message", "no text", "cut off", "no line end"],
)  # fmt: skip
def test_nothing_that_comes_raises(traced, data):
    traced.see(data)
    call_id_of(data)
    without_credentials(data)


@pytest.mark.parametrize("name", [b"Call-ID: one", b"i: one", b"CALL-ID : one", b"call-id:one"])
def test_the_call_id_is_found_however_it_is_written(name):
    assert call_id_of(INVITE.replace(b"Call-ID: one", name)) == b"one"


@pytest.mark.parametrize(
    "line",
    [
        'Authorization: Digest username="a", response="0123secret"',
        'authorization:Digest username="a",\r\n\tresponse="0123secret"',
        'Proxy-Authorization: Digest response="0123secret"',
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:0123secret|2^20",
        "a=crypto:1  AES_CM_128_HMAC_SHA1_80\tinline:0123secret|2^20",  # our parser takes these, too
        "a=crypto: 1 AES_CM_128_HMAC_SHA1_80 inline:0123secret|2^20;inline:0123secret",
        "Contact: <sip:anna:0123secret@b>",
        "Route: <sip:p.example;lr>, <sips:anna;x=y:0123secret@b:5061;lr>",
        "Refer-To: <sip:a@b?Replaces=x&Proxy-Authorization=0123secret>",
        "k=base64:0123secret",
        "a=key-mgmt:mikey 0123secret",
    ],
)
def test_credentials_and_keys_are_removed(line):
    shown = without_credentials(f"INVITE sip:a@b SIP/2.0\r\nFrom: <sip:anna@b>\r\n{line}\r\nTo: <sip:b@b>\r\n".encode())
    assert "0123secret" not in shown
    assert "[removed]" in shown
    assert "From: <sip:anna@b>\r\n" in shown
    assert shown.endswith("\r\nTo: <sip:b@b>\r\n")


@pytest.mark.parametrize(
    "line",
    [
        "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1",
        "Contact: <sip:anna@[::1]:5060;transport=tcp>",
        "Record-Route: <sip:10.0.0.1:5060;lr>, <sip:anna@b>",
        "Call-ID: 1:2@10.0.0.1:5060",
    ],
)
def test_addresses_without_a_password_stay_as_they_are(line):
    message = f"INVITE sip:a@b:5060 SIP/2.0\r\n{line}\r\n"
    assert without_credentials(message.encode()) == message
