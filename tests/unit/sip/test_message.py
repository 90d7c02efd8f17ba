"""Each row of what a stricter parser refuses, and each bound."""

import contextlib
import time

import pytest

from libs.sip.errors import SipParseError
from libs.sip.message import BadRequest, Request, Response, Via, parse, serialize
from libs.sip.uri import NameAddr, SipUri, split_quoted

OPTIONS = (
    "OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bK1\r\nFrom: {from_}\r\nTo: <sip:b@x>\r\n"
    "Call-ID: i\r\nCSeq: 1 OPTIONS\r\n{more}\r\n"
)


def options(uri="sip:b@example.com", via="192.0.2.1", from_="<sip:a@x>;tag=1", more="") -> bytes:
    return OPTIONS.format(uri=uri, via=via, from_=from_, more=more).encode()


@pytest.mark.parametrize("host", ["sbc1", "a.b-c.d1", "sip_gateway", "192.0.2.1", "[2001:db8::1]", "example.com"])
def test_hosts_of_every_kind_are_read_in_uri_and_via(host):
    message = parse(options(uri=f"sip:b@{host}:5070;transport=udp", via=f"{host}:5071"))
    assert isinstance(message, Request)
    assert (message.uri.host, message.uri.port, message.via.host, message.via.port) == (host, 5070, host, 5071)


def test_uri_headers_escapes_and_odd_user_parts_are_read():
    assert SipUri.parse("sip:b@x.example?Replaces=1%40x").host == "x.example"
    assert SipUri.parse("sip:t%C3%BCr;p=1?a@x").user == "tür;p=1?a"
    assert SipUri.parse("sip:b:secret@x").user == "b"
    assert SipUri.parse("sip:x.example").user == ""
    assert SipUri.parse("tel:+49-30-123;ext=5").user == "+49-30-123"
    assert SipUri.parse("urn:service:sos").scheme == "urn"
    assert SipUri.build("+49 30", "2001:db8::1", 5060).text == "sip:+49%2030@[2001:db8::1]:5060"


@pytest.mark.parametrize(
    "text", ["", "b@x", "sip:", "sip:@x", "sip:b@x:99999", "sip:b@x y", "tel:abc-xyz", "sip:b@[::1"]
)
def test_what_is_no_uri_raises(text):
    with pytest.raises(SipParseError):
        SipUri.parse(text)


@pytest.mark.parametrize(
    ("text", "display", "user", "tag"),
    [
        ('"Müller, \\"Max\\"" <sip:m@x>;tag=1', 'Müller, "Max"', "m", "1"),
        ("Erika Mustermann <sip:e@x>", "Erika Mustermann", "e", ""),
        ("sip:e@x;tag=9", "", "e", "9"),
        ("<sip:e@x;tag=inner>;tag=outer", "", "e", "outer"),
    ],
)
def test_addresses_are_read(text, display, user, tag):
    address = NameAddr.parse(text)
    assert (address.display_name, address.uri.user, address.tag) == (display, user, tag)


@pytest.mark.parametrize("text", ['"open <sip:a@x>', "<sip:a@x", '"a" sip:a@x', "<sip:a@x> junk", ""])
def test_broken_addresses_raise(text):
    with pytest.raises(SipParseError):
        NameAddr.parse(text)


def test_latin_1_display_names_do_not_cost_the_call():
    data = options(from_='"MXller" <sip:m@x>;tag=1').replace(b"MX", b"M\xfc")
    message = parse(data)
    assert isinstance(message, Request)
    assert message.from_.uri.user == "m"


def test_bare_line_feeds_folding_and_leading_empty_lines_are_tolerated():
    data = b"\r\n\r\n" + options(more="Subject: one\r\n\ttwo\r\n").replace(b"\r\n", b"\n")
    message = parse(data)
    assert isinstance(message, Request)
    assert message.header("subject") == "one two"


def test_commas_in_quotes_and_brackets_do_not_split():
    assert split_quoted('"a, b" <sip:x,y@z>, <sip:c@d>, Digest qop="auth,auth-int"', ",") == [
        '"a, b" <sip:x,y@z>',
        "<sip:c@d>",
        'Digest qop="auth,auth-int"',
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (options().replace(b"To: <sip:b@x>\r\n", b""), "missing_to"),
        (options().replace(b"To: <sip:b@x>\r\n", b"To: <sip:b@x>\r\nt: <sip:c@x>\r\n"), "repeated_to"),
        (options().replace(b"CSeq: 1 OPTIONS", b"CSeq: 1 INVITE"), "bad_cseq"),
        (options().replace(b"CSeq: 1 ", b"CSeq: 36893488147419103232 "), "bad_cseq"),
        (options(more="Max-Forwards: 300\r\n"), "bad_max_forwards"),
        (options(more="Content-Length: 10\r\n"), "truncated"),
        (options(more="Content-Length: -5\r\n"), "bad_content_length"),
        (options(more="no colon here\r\n"), "bad_header"),
        (options(uri="sip:b@x y"), "bad_request_line"),
        (options(uri="<sip:b@x>"), "bad_uri"),
        (options()[:-2], "truncated"),
        (options().replace(b"SIP/2.0\r\nVia", b"SIP/7.0\r\nVia"), "bad_version"),
    ],
)
def test_bad_requests_are_named(data, reason):
    with pytest.raises(BadRequest) as caught:
        parse(data)
    assert caught.value.reason == reason
    assert caught.value.status == (505 if reason == "bad_version" else 400)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not_sip"),
        (b"\x00" * 40, "not_sip"),
        (b"SIP/2.0 99 Low\r\n\r\n", "bad_response"),
        (b"SIP/2.0 200 OK\r\n\r\n", "missing_via"),
        (options(more="X: 1\r\n" * 200), "too_many_headers"),
    ],
)
def test_what_cannot_be_answered_is_named(data, reason):
    with pytest.raises(SipParseError) as caught:
        parse(data)
    assert not isinstance(caught.value, BadRequest)
    assert caught.value.reason == reason


def test_a_response_without_reason_phrase_is_read():
    text = options().decode().replace("OPTIONS sip:b@example.com SIP/2.0", "SIP/2.0 200 ")
    message = parse(text.encode())
    assert isinstance(message, Response)
    assert (message.status, message.reason, message.method) == (200, "", "OPTIONS")


def test_a_via_comes_back_with_received_and_rport():
    via = Via.parse("SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bK1;received=9.9.9.9")
    assert via.stamped(("192.0.2.9", 4000)) == (
        "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK1;rport=4000;received=192.0.2.9"
    )
    assert via.response_destination(("192.0.2.9", 4000)) == ("192.0.2.9", 4000)


def test_no_value_can_start_another_header():
    data = serialize("BYE sip:x SIP/2.0", [("Reason", "one\r\nInjected: yes")])
    assert b"\r\nInjected" not in data


@pytest.mark.parametrize(
    "hostile",
    [
        options(uri="tel:" + "1" * 15000 + "x"),
        options(via="a" + " " * 15000 + "b"),
        options(via="a" + " ;" * 7000),
        options(from_='"' + "\\a" * 7000),
        options(from_="<" * 15000),
        options(more="X:" + " \r\n \t" * 3000 + "\r\n"),
        options(more="X" + " " * 15000 + "y\r\n"),
        options(more="Content-Length: " + "1" * 15000 + "\r\n"),
        options(uri="sip:" + "a-" * 7000 + "!"),
    ],
)
def test_no_datagram_costs_more_than_a_few_milliseconds(hostile):
    started_at = time.perf_counter()
    with contextlib.suppress(SipParseError):
        parse(hostile)
    assert time.perf_counter() - started_at < 0.2
